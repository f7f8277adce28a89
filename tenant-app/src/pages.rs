//! Renders templates. They are embedded, and each is parsed when it is first shown.

use std::sync::LazyLock;

use axum::response::Html;
use minijinja::{
    Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value,
    syntax::SyntaxConfig,
    value::{Kwargs, Serde},
};
use serde::Serialize;

use crate::{assets, locales};

/// Every template, in alphabetical order. A test compares the list with the directory.
const TEMPLATES: &[(&str, &str)] = &[
    ("accounts/invitation.html", include_str!("../templates/accounts/invitation.html")),
    ("accounts/sign_in.html", include_str!("../templates/accounts/sign_in.html")),
    ("base.html", include_str!("../templates/base.html")),
    ("catalogue.html", include_str!("../templates/catalogue.html")),
    ("courses/course.html", include_str!("../templates/courses/course.html")),
    ("courses/home.html", include_str!("../templates/courses/home.html")),
    ("courses/mine.html", include_str!("../templates/courses/mine.html")),
    ("document.html", include_str!("../templates/document.html")),
    ("error.html", include_str!("../templates/error.html")),
    ("home.html", include_str!("../templates/home.html")),
    ("lesson.html", include_str!("../templates/lesson.html")),
    ("macros.html", include_str!("../templates/macros.html")),
    ("studio/course.html", include_str!("../templates/studio/course.html")),
    ("studio/courses.html", include_str!("../templates/studio/courses.html")),
];

static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::new();
    environment.set_loader(|name| {
        let found = TEMPLATES.binary_search_by_key(&name, |(name, _)| name);
        Ok(found.ok().map(|index| TEMPLATES[index].1.to_owned()))
    });
    // A name that is not there is a mistake in the template; `is defined` is still allowed.
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_syntax(syntax());
    environment.set_formatter(write_escaped);
    environment.add_function("t", translate);
    environment.add_function("asset", assets::path);
    environment.add_filter("bytes", |state: &State<'_, '_>, size: u64| {
        language(state).map(|language| locales::bytes(language, size))
    });
    environment.add_filter("number", |state: &State<'_, '_>, number: i64| {
        language(state).map(|language| locales::number(language, number))
    });
    environment.add_filter("date", |state: &State<'_, '_>, date: String| {
        language(state).map(|language| locales::date(language, &date))
    });
    environment.add_filter("initials", |name: String| initials(&name));
    environment
});

/// Blocks take no line of their own.
fn syntax() -> SyntaxConfig {
    let built = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    built.unwrap_or_default()
}

/// Escapes what HTML needs, in text and in quoted attributes, and leaves slashes in addresses alone.
fn write_escaped(
    output: &mut Output<'_>,
    state: &mut State<'_, '_>,
    value: &Value,
) -> Result<(), Error> {
    let Some(text) = value.as_str().filter(|_| !value.is_safe()) else {
        return minijinja::escape_formatter(output, state, value);
    };
    let mut rest = text;
    while let Some(at) = rest.find(['&', '<', '>', '"', '\'']) {
        let (plain, special) = rest.split_at(at);
        output.write_str(plain)?;
        output.write_str(match special.as_bytes()[0] {
            b'&' => "&amp;",
            b'<' => "&lt;",
            b'>' => "&gt;",
            b'"' => "&quot;",
            _ => "&#39;",
        })?;
        rest = &special[1..];
    }
    output.write_str(rest)?;
    Ok(())
}

/// A value for templates.
pub fn value(value: &impl Serialize) -> Value {
    Value::from(Serde(value))
}

/// What a template needs, by name: `values! { course, next => &lesson }`. Anything that serialises.
#[macro_export]
macro_rules! values {
    (@value $name:ident) => { $name };
    (@value $name:ident $value:expr) => { $value };
    ($($name:ident $(=> $value:expr)?),* $(,)?) => {
        minijinja::context! {
            $($name => $crate::pages::value(&$crate::values!(@value $name $($value)?))),*
        }
    };
}

/// Renders a template.
///
/// # Errors
/// When the template is wrong or lacks a value.
pub fn render(template: &str, values: Value) -> Result<Html<String>, Error> {
    ENVIRONMENT.get_template(template)?.render(values).map(Html)
}

/// Reads all templates, which the first pages would do else.
pub fn make_ready() {
    for (name, _) in TEMPLATES {
        if let Err(error) = ENVIRONMENT.get_template(name) {
            tracing::error!("the template {name} is wrong: {error}");
        }
    }
}

fn language(state: &State<'_, '_>) -> Result<locales::Language, Error> {
    let code = state.lookup("lang").and_then(|code| code.as_str().map(str::to_owned));
    code.and_then(|code| locales::Language::from_code(&code))
        .ok_or_else(|| Error::new(ErrorKind::UndefinedError, "`lang` is not set"))
}

/// `t("key", name=value)`: the site's text in the visitor's language.
fn translate(state: &State<'_, '_>, key: String, arguments: Kwargs) -> Result<String, Error> {
    let language = language(state)?;
    let mut values = Vec::new();
    for name in arguments.args() {
        let value: Value = arguments.get(name)?;
        let value = match value.as_i64() {
            Some(number) => number.into(),
            None => value.to_string().into(),
        };
        values.push((name, value));
    }
    Ok(locales::text(language, &key, &values))
}

fn initials(name: &str) -> String {
    let firsts = name.split_whitespace().filter_map(|word| word.chars().next());
    firsts.filter(|letter| letter.is_alphanumeric()).take(2).flat_map(char::to_uppercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(directory: &str, below: &str, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(directory).expect("the directory") {
            let entry = entry.expect("an entry");
            let name = format!("{below}{}", entry.file_name().to_string_lossy());
            if entry.file_type().expect("a type").is_dir() {
                files(&entry.path().to_string_lossy(), &format!("{name}/"), found);
            } else {
                found.push(name);
            }
        }
    }

    #[test]
    fn every_template_is_listed_and_parses() {
        let mut found = Vec::new();
        files(concat!(env!("CARGO_MANIFEST_DIR"), "/templates"), "", &mut found);
        found.sort();
        let listed: Vec<_> = TEMPLATES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(listed, found);
        for name in found {
            ENVIRONMENT.get_template(&name).expect("a template that parses");
        }
    }

    #[test]
    fn templates_hold_nothing_that_the_policy_blocks_and_no_platform_name() {
        for (name, source) in TEMPLATES {
            for banned in ["style=", "<script", "<style", " onclick", "Ta3lem", "ta3lem", "|safe"] {
                let allowed =
                    banned == "|safe" && matches!(*name, "lesson.html" | "courses/course.html");
                assert!(allowed || !source.contains(banned), "{name} holds {banned}");
            }
        }
    }

    #[test]
    fn everything_that_html_minds_is_escaped() {
        let escaped = ENVIRONMENT.render_str("{{ a }}", values! { a => "<a b=\"c\" d='e'>&é/" });
        assert_eq!(escaped.expect("text"), "&lt;a b=&quot;c&quot; d=&#39;e&#39;&gt;&amp;é/");
    }

    #[test]
    fn initials_of_names() {
        assert_eq!(initials("Siti Nurhaliza Putri"), "SN");
        assert_eq!(initials("sukarno"), "S");
        assert_eq!(initials("  "), "");
    }
}
