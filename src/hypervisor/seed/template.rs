//! User data as a template: minijinja, with the instance's own values.

use std::ops::Range;
use std::thread;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, context};

use crate::model::UserData;
use crate::names::Label;
use crate::plan::action::InstanceSpec;
use crate::units::Bytes;

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
    environment.set_fuel(Some(FUEL));
    environment
}

/// Most that rendering may take: roughly a step each, and 64 bytes of what it makes each. So it bounds time and memory.
const FUEL: u64 = 1_000_000;

/// Longest tag, and most `elif`s: both make a tree that is gone through as deep as it is, down to its end.
const LONGEST_TAG: usize = 16 << 10;
const MOST_ELIFS: usize = 1000;

/// What the deepest tree that is left takes, with room to spare. Of a stack only what is used takes memory.
const STACK: usize = 128 << 20;

/// Largest user data that a template may make.
const MOST: Bytes = Bytes::mib(16);

/// Whether the text is a template that can be rendered for an instance of `set` at this place, or none. Tried with the
/// first instance there could be; names that only others need are not looked up.
///
/// # Errors
/// What is wrong and in which line, in a clause.
pub fn check_template(
    user_data: &UserData,
    set: &Label,
    fault_domain: &Label,
    host: &Label,
) -> Result<(), String> {
    if !is_template(&user_data.template) {
        return Ok(());
    }
    let first = Values {
        id: 0,
        name: format!("{set}-0"),
        fault_domain: fault_domain.as_str(),
        host: host.as_str(),
        set: set.as_str(),
        revision: 1,
    };
    render_with(user_data, &first).map(|_| ())
}

/// The text for this instance; byte for byte as written if it is no template.
pub fn render(user_data: &UserData, spec: &InstanceSpec) -> Result<String, String> {
    if !is_template(&user_data.template) {
        return Ok(user_data.template.clone());
    }
    let values = Values {
        id: spec.id.0,
        name: spec.name(),
        fault_domain: spec.fault_domain.as_str(),
        host: spec.host.as_str(),
        set: spec.set.as_str(),
        revision: spec.revision,
    };
    render_with(user_data, &values)
}

/// What a template is told of its instance.
struct Values<'a> {
    id: u64,
    name: String,
    fault_domain: &'a str,
    host: &'a str,
    set: &'a str,
    revision: u32,
}

fn render_with(user_data: &UserData, of: &Values<'_>) -> Result<String, String> {
    check_tags(&user_data.template)?;
    let values = context! {
        instance => context! { id => of.id, name => of.name.as_str() },
        fault_domain => of.fault_domain,
        host => of.host,
        scale_set => context! { name => of.set },
        model => context! { revision => of.revision },
        vars => user_data.vars.clone(),
    };
    let render = || {
        environment()
            .render_str(&user_data.template, values)
            .map_err(|e| explain(&e))
    };
    // Whoever asks may have a small stack.
    let text = thread::scope(|scope| {
        let rendering = thread::Builder::new()
            .name("template".to_owned())
            .stack_size(STACK)
            .spawn_scoped(scope, render)
            .map_err(|e| format!("no thread could be started: {e}"))?;
        rendering
            .join()
            .unwrap_or_else(|_| Err("it can't be rendered".to_owned()))
    })?;
    if text.len() as u64 > MOST.0 {
        return Err(format!(
            "it makes more than {MOST}, the most that user data may have"
        ));
    }
    Ok(text)
}

/// Refuses a template whose tags are so long, or so many, that no stack would do.
fn check_tags(template: &str) -> Result<(), String> {
    let (mut at, mut elifs) = (0, 0);
    while let Some(tag) = next_tag(template, at) {
        let line = || template[..tag.start].matches('\n').count() + 1;
        if tag.len() > LONGEST_TAG {
            return Err(format!(
                "line {}: its tag has more than {LONGEST_TAG} bytes",
                line()
            ));
        }
        elifs += usize::from(template[tag.clone()].contains("elif"));
        if elifs > MOST_ELIFS {
            return Err(format!("line {}: it has more than {MOST_ELIFS} elif", line()));
        }
        at = tag.end;
    }
    Ok(())
}

/// The first tag at or after `at`, comments left out: from its opening to its end, or to that of the text.
fn next_tag(template: &str, mut at: usize) -> Option<Range<usize>> {
    loop {
        let start = at + template[at..].find('{')?;
        let end = match template.as_bytes().get(start + 1) {
            Some(b'{') => "}}",
            Some(b'%') => "%}",
            Some(b'#') => {
                at = start + 2 + template[start + 2..].find("#}")?;
                continue;
            }
            _ => {
                at = start + 1;
                continue;
            }
        };
        // An end within quotes is none.
        let (mut quote, mut is_escaped) = (None, false);
        for (i, c) in template[start + 2..].char_indices() {
            let here = start + 2 + i;
            match quote {
                Some(_) if is_escaped => is_escaped = false,
                Some(_) if c == '\\' => is_escaped = true,
                Some(open) if c == open => quote = None,
                Some(_) => {}
                None if c == '"' || c == '\'' => quote = Some(c),
                None if template[here..].starts_with(end) => return Some(start..here + 2),
                None => {}
            }
        }
        return Some(start..template.len());
    }
}

fn explain(error: &minijinja::Error) -> String {
    let what = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => {
            "it does not come to an end within a million steps, or makes more than 64 MiB: does it loop?"
                .to_owned()
        }
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    match error.line() {
        Some(line) => format!("line {line}: {what}"),
        None => what,
    }
}
