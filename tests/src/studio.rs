//! What an instructor who has signed in does in the studio.

use anyhow::{Context, Result, ensure};
use reqwest::multipart::Form;
use serde_json::Value;

use crate::{Visitor, visitor::hidden_fields};

/// Imports a course. The token that the studio's forms want.
///
/// # Errors
/// When it is refused.
pub async fn import(visitor: &Visitor, origin: &str, bundle: &Value) -> Result<String> {
    let page = visitor.read(&format!("{origin}/studio")).await?;
    let hidden = hidden_fields(&page, "/studio/import")?;
    let (_, token) = hidden.into_iter().next().context("no token")?;
    let form = Form::new().text("csrf", token.clone()).text("course", bundle.to_string());
    let post = visitor.http().post(format!("{origin}/studio/import"));
    let answer = post.header("origin", origin).multipart(form).send().await?;
    let status = answer.status();
    ensure!(status.is_redirection(), "importing: {status}\n{}", answer.text().await?);
    Ok(token)
}

/// The ids of a course's lessons.
///
/// # Errors
/// When the studio does not show it.
pub async fn lessons(visitor: &Visitor, origin: &str, course: &str) -> Result<Vec<String>> {
    let page = visitor.read(&format!("{origin}/studio/courses/{course}")).await?;
    let actions = page.split("action=\"/studio/lessons/").skip(1);
    Ok(actions.filter_map(|rest| Some(rest.split_once("/items\"")?.0.to_owned())).collect())
}
