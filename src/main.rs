//! The binary: see `lib.rs`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let world = vmss::world::World::real();
    let code = vmss::run(std::env::args_os().skip(1), &world);
    // Closing a connection asks the daemon, and a hung one would keep the process from ending: the kernel closes all.
    std::mem::forget(world);
    ExitCode::from(code)
}
