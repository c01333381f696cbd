//! Cases with provisioning: leases that begin and end in two steps.

use super::script::check;

#[test]
fn a_grant_is_a_reservation_until_it_is_provisioned() {
    check(
        "it runs from the moment it is ready",
        "
        provisioning catalog fs,gh start 10
        request a workers 1 servers fs ttl 60 => granted #1
        show #1 => pending [0:8000 fs:9000], until 40
        at 7
        started #1
        show #1 => active [0:8000 fs:9000], until 67
        started #1 => Allocation #1 is active, no longer reserved
        start-failed #1 => Allocation #1 is active, no longer reserved
        stopped #1 => Allocation #1 is active, not being released
    ",
    );
    check(
        "a failed start is a refusal, which no request id remembers",
        "
        provisioning catalog fs
        request a servers fs id k => granted #1
        request a servers fs id k => repeated #1, pending
        start-failed #1
        show #1 => failed [fs:9000], no answer
        request a servers fs id k => granted #2
        started #2
        request a servers fs id k => repeated #2, active
    ",
    );
    check(
        "whether workers are managed does not depend on the catalog",
        "
        provisioning workers
        request a workers 1 => granted #1
        request b servers fs => granted #2
        list state pending => #1
        list state active => #2
        provisioning catalog fs
        request c workers 1 => granted #3
        list state active => #2 #3
    ",
    );
}

#[test]
fn only_servers_of_the_catalog_can_be_leased() {
    check(
        "unknown servers are named, and those there are",
        r#"
        provisioning catalog fs,gh
        request a servers fs,x,y => mcp_servers names "x", "y", which the catalog does not have: it has "fs", "gh"
        request a workers 99 servers x => mcp_servers names "x", which the catalog does not have: it has "fs", "gh"
        request a workers 1 => granted #1
        "#,
    );
}

#[test]
fn a_server_that_is_not_shared_runs_once_for_each_allocation() {
    check(
        "each has its own port, released with its lease",
        "
        provisioning catalog own*,fs
        request a servers own,fs => granted #1
        request b servers own,fs => granted #2
        started #1
        started #2
        show #1 => active [own:9000 fs:9001], until 60
        show #2 => active [own:9002 fs:9001], until 60
        show => 2 live, 0 workers 0.0 cores 0 MB leased, 0 workers reclaimable, servers fs,own
        release #1 => #1 is being released
        stopped #1 => released #1, Requested: 0 workers 0.0 cores 0 MB after 0 s
        request c servers own => granted #3
        show #3 => pending [own:9003], until 60
    ",
    );
    check(
        "one that ran alone is not shared later, and one that is shared not taken alone",
        "
        provisioning catalog s*
        request a servers s => granted #1
        provisioning catalog s
        request b servers s => granted #2
        request c servers s => granted #3
        provisioning catalog s*
        request d servers s => granted #4
        show #1 => pending [s:9000], until 60
        show #2 => pending [s:9001], until 60
        show #3 => pending [s:9001], until 60
        show #4 => pending [s:9002], until 60
    ",
    );
}

#[test]
fn holdings_are_free_once_the_release_is_finished() {
    check(
        "a release in two steps",
        "
        provisioning workers
        request a workers 6 => granted #1
        started #1
        at 5
        release #1 => #1 is being released
        release #1 => #1 is being released
        show => 1 live, 6 workers 6.0 cores 12288 MB leased, 0 workers reclaimable, servers none
        renew #1 => Allocation #1 is releasing, and only an active one can be renewed: call request_resources again
        request b workers 5 => capacity pending: Insufficient workers: requested 5, available 4
        request c workers 4 => granted #2
        request b workers 7 => Insufficient workers: requested 7, available 6; retry at 65
        at 9
        stopped #1 => released #1, Requested: 6 workers 6.0 cores 12288 MB after 9 s
        release #1 => #1 was released at 9
        stopped #1 => Allocation #1 is released, not being released
        request b workers 5 => granted #3
    ",
    );
    check(
        "an expired lease begins to end for a request that lacks capacity",
        "
        provisioning workers
        request a workers 6 ttl 10 => granted #1
        request b workers 4 ttl 20 => granted #2
        started #1
        started #2
        at 30
        request c workers 3 => capacity pending: Insufficient workers: requested 3, available 0, ends #1
        list state releasing => #1
        list state active => #2
        request c workers 3 => capacity pending: Insufficient workers: requested 3, available 0
        stopped #1 => released #1, Expired: 6 workers 6.0 cores 12288 MB after 30 s
        request c workers 3 => granted #3
        sweep => expired #2
        list state releasing => #2
        sweep => expired nothing
    ",
    );
    check(
        "a lease without provisioning ends, and frees its capacity, immediately",
        "
        provisioning catalog fs
        request a workers 9 ttl 10 => granted #1
        request b workers 1 servers fs ttl 5 => granted #2
        started #2
        at 20
        request c workers 9 => granted #3, reclaimed #2 #1
        list state releasing => #2
        list state released => #1
    ",
    );
    check(
        "a reservation that is not ready in time ends like a lease",
        "
        provisioning catalog fs start 5
        request a servers fs => granted #1
        at 34
        sweep => expired nothing
        at 35
        sweep => expired #1
        started #1 => Allocation #1 is releasing, no longer reserved
        stopped #1 => released #1, Expired: 0 workers 0.0 cores 0 MB after 35 s
    ",
    );
    check(
        "without the provisioning of its beginning it ends immediately",
        "
        provisioning workers
        request a workers 6 => granted #1
        started #1
        release #1 => #1 is being released
        provisioning
        release #1 => released #1, Requested: 6 workers 6.0 cores 12288 MB after 0 s
    ",
    );
}

#[test]
fn occupied_ports_are_skipped() {
    check(
        "for servers and workers",
        "
        provisioning occupied 9000,9001,8000,8002
        request a workers 2 servers x => granted #1
        show #1 => active [0:8001 1:8003 x:9002], until 60
    ",
    );
    check(
        "they are missing where ports are short",
        "
        provisioning occupied 9000,9050
        request a many 99 => Insufficient MCP server ports: requested 99 more, available 98 \
            (the limit is 100 servers, ports 9000-9099)
        request a many 98 => granted #1
    ",
    );
}
