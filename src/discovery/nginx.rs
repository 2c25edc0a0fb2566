//! nginx: an `upstream` block, to be included in `http` or `stream`. nginx reads it when it is told to, by `nginx -s
//! reload` or `systemctl reload nginx`.
//!
//! <https://nginx.org/en/docs/http/ngx_http_upstream_module.html>

use std::fmt::Write as _;

use crate::discovery::{header, socket, taking_clients};
use crate::load_balancer::Discovery;
use crate::membership::Membership;
use crate::names::Label;

/// What stands in a block that would be empty: nginx refuses one without a server ("no servers are inside upstream"), and
/// the whole configuration with it. A server that is down is never asked, so clients get a 502 at once.
const NOBODY: &str = "    server 127.0.0.1:1 down;\n";

/// The file's text.
pub(super) fn render(discovery: &Discovery, set: &Label, membership: &Membership) -> String {
    let mut servers = String::new();
    for server in taking_clients(membership) {
        let address = socket(server, discovery);
        // Writing into a text can't fail.
        let _ = writeln!(servers, "    server {address} weight={};", server.weight);
    }
    if servers.is_empty() {
        servers.push_str(NOBODY);
    }
    format!("{}upstream {} {{\n{servers}}}\n", header(set), discovery.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::testing::{discovery, label, three};
    use crate::load_balancer::Format;

    fn text(membership: &Membership) -> String {
        render(&discovery(Format::Nginx, "/f.conf"), &label("web"), membership)
    }

    #[test]
    fn servers_stand_in_the_block_with_their_weights() {
        assert_eq!(
            text(&three()),
            "# Written by vmss for the scale set web, do not edit.\n\
             upstream shop {\n    server 10.0.0.1:80 weight=1;\n    server [fd00::3]:80 weight=100;\n}\n"
        );
    }

    #[test]
    fn a_block_is_never_empty() {
        assert_eq!(
            text(&Membership::default()),
            "# Written by vmss for the scale set web, do not edit.\n\
             upstream shop {\n    server 127.0.0.1:1 down;\n}\n"
        );
    }
}
