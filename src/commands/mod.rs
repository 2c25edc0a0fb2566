//! One file per verb. This one holds what they share: which set is meant, its store, who listens.

pub mod apply;
pub mod autoscale;
pub mod catch_up;
pub mod check;
pub mod consent;
pub mod cordon;
pub mod create;
pub mod delete;
pub mod history;
pub mod host;
pub mod image;
pub mod instance;
pub mod instances;
pub mod lb;
pub mod list;
pub mod model;
pub mod paper;
pub mod plan;
pub mod ranges;
pub mod repair;
pub mod run;
pub mod scale;
pub mod show;
pub mod state;
pub mod sweep;
mod tell;
pub mod unrecorded;
pub mod upgrade;
pub mod wait;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cli::{
    Command, Global, HostCommand, ImageCommand, LbCommand, ModelCommand, OutputFormat, StateCommand,
};
use crate::converge::{self, Consent, Ending, Joining};
use crate::definition;
use crate::error::{Error, Exit, Result};
use crate::event::Listener;
use crate::intake::{self, IntakeError};
use crate::lease::{self, Held};
use crate::model::Model;
use crate::names::Label;
use crate::plan::action::Step;
use crate::record::{Life, Record};
use crate::scaleset::ScaleSet;
use crate::store::{Operation, Store, Version};
use crate::ui::style::Style;
use crate::world::World;

/// Runs one command.
pub fn dispatch(ctx: &Context<'_>, command: &Command) -> Result<Exit> {
    match command {
        Command::Init { name } => paper::init(ctx, name),
        Command::Validate => paper::validate(ctx),
        Command::Schema => paper::schema(ctx),
        Command::Completions { shell } => paper::completions(ctx, *shell),
        Command::Man { dir } => paper::man(ctx, dir.as_deref()),
        Command::Plan(args) => plan::run(ctx, args),
        Command::Create => create::run(ctx),
        Command::Apply(args) => apply::run(ctx, args),
        Command::Upgrade(args) => upgrade::run(ctx, args),
        Command::Repair { resume } => repair::run(ctx, *resume),
        Command::Model(ModelCommand::List) => model::list(ctx),
        Command::Model(ModelCommand::Show { revision }) => model::show(ctx, *revision),
        Command::Model(ModelCommand::Diff { from, to }) => model::diff(ctx, *from, *to),
        Command::Run {
            all,
            interval,
            metrics,
        } => run::run(ctx, *all, *interval, *metrics),
        Command::Wait { what, timeout } => wait::run(ctx, *what, *timeout),
        Command::Scale(args) => scale::run(ctx, args),
        Command::Autoscale(args) => autoscale::run(ctx, args),
        Command::Show => show::run(ctx),
        Command::Instances => instances::run(ctx),
        Command::Instance(command) => instance::run(ctx, command),
        Command::List => list::run(ctx),
        Command::Delete(args) => delete::run(ctx, args),
        Command::Host(HostCommand::List) => host::list(ctx),
        Command::Host(HostCommand::Cordon { host }) => cordon::cordon(ctx, host),
        Command::Host(HostCommand::Drain { host, migrate }) => cordon::drain(ctx, host, *migrate),
        Command::Host(HostCommand::Uncordon { host }) => cordon::uncordon(ctx, host),
        Command::Image(ImageCommand::List) => image::list(ctx),
        Command::Image(ImageCommand::Push) => image::push(ctx),
        Command::Image(ImageCommand::Prune) => image::prune(ctx),
        Command::Lb(LbCommand::Show) => lb::show(ctx),
        Command::Lb(LbCommand::Sync { forget_dropped }) => lb::sync(ctx, *forget_dropped),
        Command::Lb(LbCommand::Config) => lb::config(ctx),
        Command::Check => check::run(ctx),
        Command::History { limit, all } => history::run(ctx, *limit, *all),
        Command::State(StateCommand::Rebuild { capacity }) => state::rebuild(ctx, *capacity),
        Command::State(StateCommand::Adopt) => state::adopt(ctx),
        Command::State(StateCommand::Sweep { names, all }) => sweep::run(ctx, names, *all),
        Command::State(StateCommand::CatchUp { capacity }) => catch_up::run(ctx, *capacity),
        Command::State(StateCommand::Show) => state::show(ctx),
    }
}

/// What every command is given.
pub struct Context<'w> {
    /// Effects.
    pub world: &'w World,
    /// Options of every command.
    pub global: &'w Global,
    /// Who hears what happens.
    pub listener: Arc<dyn Listener>,
    /// Colours.
    pub style: Style,
}

/// A set that the store knows.
pub struct Target {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The set's name.
    pub name: Label,
    /// The set's record.
    pub record: Record,
    /// The record's version when it was read.
    pub version: Version,
    /// The definition as it is now, if it was read.
    pub definition: Option<ScaleSet>,
}

/// A set that is being deleted is changed no more.
pub fn going(set: &Label) -> Error {
    Error::message(Exit::Blocked, format!("the set {set} is being deleted"))
}

impl Context<'_> {
    /// Path of the definition.
    pub fn file(&self) -> PathBuf {
        let given = self.global.file.clone().or_else(|| self.world.env.file.clone());
        self.world
            .env
            .cwd
            .join(given.unwrap_or_else(|| PathBuf::from("scaleset.toml")))
    }

    /// The definition, read and checked.
    pub fn definition(&self) -> Result<ScaleSet> {
        let file = self.file();
        let text = self.definition_text(&file)?;
        definition::parse(&text, &file).map_err(|errors| self.definition_error(&errors, &text))
    }

    /// The text of a definition.
    pub fn definition_text(&self, file: &Path) -> Result<String> {
        let read = intake::text_handed_over(file, intake::DEFINITION, &self.world.interrupt);
        read.map_err(|e| {
            let (is_missing, exit) = (matches!(e, IntakeError::Io(_)), exit_of(&e));
            let error = Error::new(exit, e).context(format!("reading the definition {}", file.display()));
            if is_missing && self.global.file.is_none() {
                error.hint("name a definition with -f FILE, or write one: vmss init > scaleset.toml")
            } else {
                error
            }
        })
    }

    fn definition_error(&self, errors: &definition::Errors, text: &str) -> Error {
        if self.global.output == OutputFormat::Json {
            self.json(errors);
        }
        Error::rendered(
            Exit::Definition,
            definition::render(errors, text, self.style.color),
        )
    }

    /// The store that `set` names, or the usual one.
    pub fn store(&self, set: Option<&ScaleSet>) -> Result<Arc<dyn Store>> {
        let path = set
            .and_then(|s| s.state.path.as_deref())
            .unwrap_or(&self.world.env.state);
        Ok((self.world.open_store)(path)?)
    }

    /// The set that is meant, which the store must know.
    pub fn target(&self) -> Result<Target> {
        let (name, store, definition) = self.meant()?;
        match store.get(&name)? {
            Some((record, version)) => Ok(Target {
                store,
                name,
                record,
                version,
                definition,
            }),
            None => Err(self.no_record(&*store, &name, definition.as_ref())),
        }
    }

    /// That the store has no record of a set: what its hosts have of it all the same, if the definition says which they are.
    fn no_record(&self, store: &dyn Store, name: &Label, definition: Option<&ScaleSet>) -> Error {
        let id = match store.id() {
            Ok(id) => id,
            Err(e) => return e.into(),
        };
        let sets = match names(store) {
            Ok(sets) => sets,
            Err(e) => return e,
        };
        let left = match store.abandoned(name) {
            Ok(left) => left,
            Err(e) => return e.into(),
        };
        let found = definition.map(|set| unrecorded::look_for(self, set, id, left.as_ref()).0);
        let text = format!("there is no set {name} in the store {}", store.location());
        match found {
            Some(found) if !found.is_empty() => found.error(),
            Some(found) if found.back().is_some() => {
                let back = found.back().unwrap_or_default();
                Error::message(Exit::Failed, format!("{text}, and {back}")).hint(
                    "vmss delete switches them off and deletes them; vmss create does so too, and makes the set anew",
                )
            }
            _ => Error::message(Exit::Failed, text)
                .hint(format!("create it with vmss create; sets of this store: {sets}")),
        }
    }

    /// As [`Self::target`], unless the set is on its way out.
    pub fn wanted(&self) -> Result<Target> {
        let target = self.target()?;
        match target.record.life {
            Life::Wanted => Ok(target),
            Life::Deleting => Err(going(&target.name).hint("finish that with vmss delete")),
        }
    }

    /// The set's name, its store, and its definition unless only the name was given.
    pub fn meant(&self) -> Result<(Label, Arc<dyn Store>, Option<ScaleSet>)> {
        if let Some(name) = &self.global.set {
            return Ok((name.clone(), self.store(None)?, None));
        }
        let definition = self.definition()?;
        let store = self.store(Some(&definition))?;
        Ok((definition.name.clone(), store, Some(definition)))
    }

    /// The model that `set` describes now. Looks at the image and reads the user data.
    pub fn model(&self, set: &ScaleSet) -> Result<Model> {
        let user_data = self.user_data(set)?;
        let progress = tell::reading(self, &set.image);
        let image = crate::images::local(
            &set.image,
            &self.world.env.cache,
            &self.world.interrupt,
            &progress,
        )?;
        crate::resolve::model(set, &image.image, user_data).map_err(|e| Error::new(Exit::Definition, e))
    }

    /// The text of the user data that `set` names. Only the file is read; the model says whether it can be rendered.
    pub fn user_data(&self, set: &ScaleSet) -> Result<Option<String>> {
        let Some(path) = &set.instance.user_data else {
            return Ok(None);
        };
        let text = intake::text(path, intake::USER_DATA).map_err(|e| {
            Error::new(exit_of(&e), e).context(format!("reading the user data {}", path.display()))
        })?;
        Ok(Some(text))
    }

    /// Takes the lease of `set`.
    pub fn hold(&self, store: &Arc<dyn Store>, set: &Label, doing: &str) -> Result<Held> {
        let wait = self.global.wait_lock.unwrap_or_default();
        lease::hold(self.world, store, set, doing, wait, &self.listener)
    }

    /// As [`Self::hold`], for a capacity that was `recorded`: whoever has the lease carries it out.
    pub fn hold_for(&self, target: &Target, doing: &str, recorded: Option<u32>) -> Result<Held> {
        self.hold(&target.store, &target.name, doing).map_err(|e| {
            let Some(capacity) = recorded.filter(|_| e.exit == Exit::Locked) else {
                return e;
            };
            let key = lease::lease_key(&target.name);
            let busy = target.store.holder(&key, self.world.clock.now()).ok().flatten();
            let who = busy.map_or_else(String::new, |h| format!(" by pid {} ({})", h.pid, h.doing));
            e.hint(format!(
                "the capacity of {capacity} is recorded: it will be carried out{who}, or by the next vmss scale or autoscale"
            ))
        })
    }

    /// Runs the loop under a lease that is held, with an entry in the history, as far as `consent` goes.
    pub fn converge(
        &self,
        store: &Arc<dyn Store>,
        held: &Held,
        operation: &Operation,
        consent: Consent,
    ) -> Result<Ending> {
        self.converge_after(store, held, operation, Vec::new(), consent)
    }

    /// As [`Self::converge`], with steps before it that were asked for.
    pub fn converge_after(
        &self,
        store: &Arc<dyn Store>,
        held: &Held,
        operation: &Operation,
        asked: Vec<Step>,
        consent: Consent,
    ) -> Result<Ending> {
        let number = store.begin(operation)?;
        let (world, set, lease) = (self.world, &operation.set, &held.lease);
        let ending = converge::converge(
            world,
            store,
            lease,
            set,
            &self.listener,
            asked,
            (Joining::Awaited, consent),
        );
        let outcome = match &ending {
            Ok(ending) => crate::ui::outcome::in_history(ending),
            Err(e) => format!("failed: {e}"),
        };
        // The work is done either way; that it could not be written down must not hide how it ended.
        let noted = store.finish(number, self.world.clock.now(), &outcome, operation.to);
        let ending = ending?;
        noted?;
        Ok(ending)
    }

    /// An operation that begins now.
    pub fn operation(&self, set: &Label, verb: &str, from: Option<u32>, to: Option<u32>) -> Operation {
        Operation {
            set: set.clone(),
            verb: verb.to_owned(),
            who: self.world.env.who(),
            at: self.world.clock.now(),
            from,
            to,
        }
    }

    /// Asks before something is deleted. `Ok(false)` means no.
    pub fn confirm(&self, question: &str) -> Result<bool> {
        if self.global.yes {
            return Ok(true);
        }
        if !self.world.env.stdin_is_terminal || !self.world.env.stderr_is_terminal {
            return Err(
                Error::message(Exit::Usage, format!("{question} There is no terminal to ask on."))
                    .hint("give --yes to say so beforehand"),
            );
        }
        Ok((self.world.ask)(question))
    }

    /// Whether data goes out as JSON.
    pub fn is_json(&self) -> bool {
        self.global.output == OutputFormat::Json
    }

    /// Prints one JSON document on stdout.
    pub fn json(&self, data: &impl serde::Serialize) {
        match serde_json::to_string_pretty(data) {
            Ok(text) => self.world.stdout.line(text),
            Err(e) => self
                .world
                .stderr
                .line(format!("error: this can't be said in JSON: {e}")),
        }
    }

    /// Prints data on stdout.
    pub fn print(&self, text: impl AsRef<str>) {
        self.world.stdout.line(text);
    }

    /// Says something on stderr, unless quiet.
    pub fn say(&self, text: impl AsRef<str>) {
        if !self.global.quiet {
            self.world.stderr.line(text);
        }
    }

    /// Prints a table on stdout.
    pub fn table(&self, table: &crate::ui::table::Table) {
        self.print(table.render(self.world.env.width));
    }

    /// Says what the set is like after a run, and returns the exit code.
    pub fn conclude(&self, name: &Label, verb: &str, ending: &Ending) -> Exit {
        self.conclude_as(name, verb, ending, ending.exit())
    }

    /// As [`Self::conclude`], where the command asked for more than the set's capacity and `exit` says how that went.
    pub fn conclude_as(&self, name: &Label, verb: &str, ending: &Ending, exit: Exit) -> Exit {
        crate::ui::outcome::tell(self, name, verb, ending, exit);
        exit
    }

    /// Says so if the definition is no longer what was applied.
    pub fn mention_drift(&self, target: &Target) {
        let Some(definition) = &target.definition else {
            return;
        };
        let keys = apply::changed_keys(&target.record.applied, definition);
        if !keys.is_empty() {
            self.say(format!(
                "note: the definition has changed since it was applied ({}); vmss apply makes it count",
                keys.join(", ")
            ));
        }
    }
}

/// The exit code where a file that a definition is made of can't be read.
const fn exit_of(error: &IntakeError) -> Exit {
    match error {
        IntakeError::Interrupted => Exit::Interrupted,
        _ => Exit::Definition,
    }
}

fn names(store: &dyn Store) -> Result<String> {
    let sets = store.sets()?;
    if sets.is_empty() {
        return Ok("none".to_owned());
    }
    Ok(sets.iter().map(Label::as_str).collect::<Vec<_>>().join(", "))
}

/// `path` as a person would write it from `cwd`.
pub fn short_path(path: &Path, cwd: &Path) -> String {
    path.strip_prefix(cwd).unwrap_or(path).display().to_string()
}
