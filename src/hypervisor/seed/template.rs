//! User data as a template: minijinja, with the instance's own values.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior, context};

use crate::model::UserData;
use crate::plan::action::InstanceSpec;

/// Whether the text is rendered at all. cloud-init's own templates are cloud-init's to render.
pub fn is_template(text: &str) -> bool {
    !text.trim_start().starts_with("## template: jinja")
        && ["{{", "{%", "{#"].iter().any(|tag| text.contains(tag))
}

fn environment() -> Environment<'static> {
    let mut syntax = SyntaxConfig::builder();
    syntax.keep_trailing_newline(true);
    let syntax = syntax.build().expect("minijinja accepts its own default tags");
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_syntax(syntax);
    environment
}

/// Whether the text is a template that can be read, or none. Names in it are looked up only when it is rendered.
///
/// # Errors
/// What is wrong and in which line, in a clause.
pub fn check_template(text: &str) -> Result<(), String> {
    if !is_template(text) {
        return Ok(());
    }
    environment()
        .template_from_str(text)
        .map(|_| ())
        .map_err(|e| explain(&e))
}

/// The text for this instance; byte for byte as written if it is no template.
pub fn render(user_data: &UserData, spec: &InstanceSpec) -> Result<String, String> {
    if !is_template(&user_data.template) {
        return Ok(user_data.template.clone());
    }
    let values = context! {
        instance => context! { id => spec.id.0, name => spec.name() },
        fault_domain => spec.fault_domain.as_str(),
        host => spec.host.as_str(),
        scale_set => context! { name => spec.set.as_str() },
        model => context! { revision => spec.revision },
        vars => user_data.vars.clone(),
    };
    environment()
        .render_str(&user_data.template, values)
        .map_err(|e| explain(&e))
}

fn explain(error: &minijinja::Error) -> String {
    let what = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    match error.line() {
        Some(line) => format!("line {line}: {what}"),
        None => what,
    }
}
