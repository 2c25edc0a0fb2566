//! Traefik, versions 2 and 3: the dynamic configuration of its file provider, with one HTTP service. Traefik watches the
//! file; nobody has to tell it.
//!
//! <https://doc.traefik.io/traefik/reference/routing-configuration/other-providers/file/>: the file is TOML if its name
//! ends in `.toml`, and YAML if in `.yml` or `.yaml`; no other ending is taken. JSON is YAML. The file goes through Go's
//! templates first, to which `{{` means something: neither text ever has it.

use serde_json::{Value, json};

use crate::discovery::{header, socket, taking_clients};
use crate::load_balancer::Discovery;
use crate::membership::Membership;
use crate::names::Label;

/// The file's text, in the language that its name asks for.
///
/// A service without servers is valid, and answers 503 to its clients. It has to have the empty list: `loadBalancer` with
/// nothing in it is refused, with the whole file, and without the service its routers would be broken.
pub(super) fn render(discovery: &Discovery, set: &Label, membership: &Membership) -> String {
    let service = json!({ "loadBalancer": { "servers": servers(discovery, membership) } });
    let configuration = json!({ "http": { "services": { discovery.name.as_str(): service } } });
    let text = if is_toml(discovery) {
        toml::to_string(&configuration)
            .expect("tables, lists, strings and small numbers are all TOML has to hold")
    } else {
        format!("{configuration:#}\n")
    };
    header(set) + &text
}

/// Weights stand there only if they differ: Traefik has them since version 3.0, and version 2 refuses a file with a field
/// that it does not know.
fn servers(discovery: &Discovery, membership: &Membership) -> Value {
    let servers = taking_clients(membership);
    let differ = servers.windows(2).any(|pair| pair[0].weight != pair[1].weight);
    (servers.iter())
        .map(|server| {
            let url = format!("http://{}", socket(server, discovery));
            if differ {
                json!({ "url": url, "weight": server.weight })
            } else {
                json!({ "url": url })
            }
        })
        .collect()
}

/// Traefik takes endings in either case.
fn is_toml(discovery: &Discovery) -> bool {
    let ending = discovery.file.extension();
    ending.is_some_and(|ending| ending.eq_ignore_ascii_case("toml"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::testing::{discovery, label, three};
    use crate::load_balancer::Format;

    fn text(file: &str, membership: &Membership) -> String {
        render(&discovery(Format::Traefik, file), &label("web"), membership)
    }

    #[test]
    fn yaml_is_json_with_a_comment() {
        let text = text("/f.yml", &three());
        let (comment, json) = text.split_once('\n').unwrap();
        assert_eq!(comment, "# Written by vmss for the scale set web, do not edit.");
        assert_eq!(
            serde_json::from_str::<Value>(json).unwrap(),
            json!({ "http": { "services": { "shop": { "loadBalancer": { "servers": [
                { "url": "http://10.0.0.1:80", "weight": 1 },
                { "url": "http://[fd00::3]:80", "weight": 100 },
            ] } } } } })
        );
    }

    #[test]
    fn toml_is_written_where_the_name_asks_for_it() {
        for file in ["/f.toml", "/f.TOML"] {
            assert_eq!(
                text(file, &three()),
                "# Written by vmss for the scale set web, do not edit.\n\
                 [[http.services.shop.loadBalancer.servers]]\n\
                 url = \"http://10.0.0.1:80\"\n\
                 weight = 1\n\
                 \n\
                 [[http.services.shop.loadBalancer.servers]]\n\
                 url = \"http://[fd00::3]:80\"\n\
                 weight = 100\n"
            );
        }
    }

    #[test]
    fn equal_weights_are_left_out() {
        let mut membership = three();
        membership.servers.iter_mut().for_each(|s| s.weight = 10);
        for file in ["/f.yml", "/f.toml"] {
            let text = text(file, &membership);
            assert!(!text.contains("weight"), "{text}");
        }
    }

    #[test]
    fn a_service_without_servers_keeps_its_list() {
        let nobody = Membership::default();
        assert!(text("/f.yml", &nobody).contains("\"servers\": []"));
        assert!(text("/f.toml", &nobody).contains("[http.services.shop.loadBalancer]\nservers = []\n"));
    }
}
