//! Turns what a terminal shows (`tmux capture-pane -ep`, on stdin) into a picture (SVG, on stdout): see `examples/picture`.

use std::io::{Read as _, Write as _};

fn main() -> std::io::Result<()> {
    let mut screen = String::new();
    std::io::stdin().read_to_string(&mut screen)?;
    let picture = anstyle_svg::Term::new().render_svg(screen.trim_end());
    std::io::stdout().write_all(picture.as_bytes())
}
