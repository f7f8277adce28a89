//! People: who they are and what they may do. Below: how they sign in, stay signed in, and are let
//! in the first time.

pub mod passwords;
pub mod throttle;
pub mod sessions;
pub mod sign_in;
pub mod invitation;
pub mod language;

use serde::Serialize;
use uuid::Uuid;

use crate::locales::Language;

/// What somebody may do on this site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, sqlx::Type)]
#[sqlx(type_name = "account_role", rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Learns.
    Student,
    /// Makes courses and answers for the own ones.
    Instructor,
    /// Sees to all courses and people.
    Staff,
    /// Also changes the site itself.
    Admin,
}

impl Role {
    /// Whether the studio is open.
    pub fn teaches(self) -> bool {
        self != Self::Student
    }

    /// Whether other people's courses are too.
    pub fn sees_all_courses(self) -> bool {
        matches!(self, Self::Staff | Self::Admin)
    }
}

/// Who is signed in.
#[derive(Clone, Debug, Serialize)]
pub struct Account {
    /// The id.
    pub id: Uuid,
    /// The name as the person writes it.
    pub name: String,
    /// The address.
    pub email: String,
    /// What the person may do.
    pub role: Role,
    /// The language of the profile.
    pub language: Option<Language>,
    /// For templates.
    pub teaches: bool,
}

/// An address as it is stored: trimmed and in lower case.
pub fn normal_email(text: &str) -> String {
    text.trim().to_lowercase()
}
