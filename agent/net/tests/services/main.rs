//! Services on a real kernel, in network namespaces of their own. Needs root; without it the tests fail.
//!
//! Each test runs in a process of its own that `unshare` has put into a fresh namespace: this program again.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::{Arguments, Trial};

mod flows;
mod life;
mod node;
mod refusals;
mod spread;
mod traffic;

use node::Node;

type Test = fn(&mut Node) -> Result<()>;

macro_rules! tests {
    ($($module:ident: $($name:ident),*;)*) => {
        const TESTS: &[(&str, Test)] = &[$($((stringify!($name), $module::$name)),*),*];
    };
}

tests! {
    traffic:
        cluster_ip_reaches_its_endpoints,
        pod_reaches_itself_through_its_service_with_bridge_netfilter,
        pod_reaches_itself_through_its_service_without_bridge_netfilter,
        service_is_entered_from_outside_by_node_port_external_and_load_balancer_address,
        local_traffic_policy_keeps_the_source_and_drops_where_nobody_is,
        endpoint_in_the_nodes_own_network_is_reached_from_everywhere,
        pods_go_out_under_the_nodes_address,
        endpoints_that_stop_serve_as_long_as_no_other_does;
    refusals:
        nobody_there_is_said_at_once,
        unallocated_addresses_are_refused_and_never_leave_the_node,
        dns_is_not_tracked_and_nothing_else_is_reached_by_its_address;
    spread:
        connections_are_spread_evenly;
    flows:
        udp_conversations_leave_an_endpoint_that_went,
        udp_conversation_that_went_astray_finds_the_first_endpoint,
        udp_conversation_ends_with_a_service_that_went_during_a_restart,
        clients_stay_with_their_endpoint,
        clients_stay_with_their_endpoint_by_a_node_port,
        many_clients_are_forgotten_at_once_and_nothing_else_changes,
        clients_leave_an_endpoint_that_the_traffic_policy_keeps_them_from;
    life:
        restart_leaves_no_gap,
        table_of_another_version_is_replaced,
        what_is_known_is_served_before_everything_was_told,
        rules_come_back_when_somebody_flushes_them,
        what_somebody_adds_to_the_table_goes,
        other_tables_are_left_alone_and_ours_can_be_listed_and_loaded,
        rolling_update_under_load_fails_no_connection,
        random_changes_are_never_refused_and_leave_nothing_behind,
        many_services_are_loaded_and_changed;
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|argument| argument == "inside") {
        let (_, test) = TESTS
            .iter()
            .find(|(name, _)| *name == arguments[2])
            .context("no such test")?;
        return test(&mut Node::new()?);
    }
    let trials = TESTS
        .iter()
        .map(|(name, _)| Trial::test(*name, move || inside(name).map_err(|error| format!("{error:?}").into())))
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn inside(test: &str) -> Result<()> {
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--"])
        .arg(std::env::current_exe()?)
        .args(["inside", test])
        .env("RUST_BACKTRACE", "0")
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
