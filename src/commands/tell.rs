//! What is told of work that takes long before anything is asked of a host.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::commands::Context;
use crate::scaleset::ImageSource;
use crate::units::Bytes;

/// How often is told how far it has come.
const SELDOM: Duration = Duration::from_secs(5);

/// Tells how far the fetching or reading of an image has come, now and then: most are done before the first time.
pub(super) fn reading<'c>(ctx: &'c Context<'_>, image: &'c ImageSource) -> impl Fn(u64, u64) + 'c {
    let last = Cell::new(Instant::now());
    move |done, total| {
        if last.get().elapsed() < SELDOM {
            return;
        }
        last.set(Instant::now());
        let name = match image {
            ImageSource::File { path, .. } => path.display().to_string(),
            ImageSource::Url { url, .. } => url.clone(),
        };
        let of = match total {
            0 => String::new(),
            total => format!(" of {}", Bytes(total)),
        };
        ctx.say(format!("reading the image {name}: {}{of}", Bytes(done)));
    }
}
