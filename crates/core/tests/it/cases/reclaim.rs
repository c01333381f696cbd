//! Cases of requests that end expired leases, or have to wait for others.

use super::script::check;

#[test]
fn a_request_that_lacks_capacity_reclaims_expired_leases() {
    check(
        "only as many as needed, the longest overdue first",
        "
        request a workers 3 ttl 30 => granted #1
        request b workers 3 ttl 10 => granted #2
        request c workers 3 ttl 20 => granted #3
        at 40
        request d workers 1 => granted #4
        request e workers 2 => granted #5, reclaimed #2
        show #5 => active [0:8010 1:8011], until 100
        request f workers 4 => granted #6, reclaimed #3
        request g workers 9 => Insufficient workers: requested 9, available 3; retry at 100
        show #1 => active [0:8000 1:8001 2:8002], expired at 30
        list state released => #2 #3
    ",
    );
    check(
        "leases that would not help stay",
        "
        request a servers x ttl 10 => granted #1
        request b workers 5 ttl 20 => granted #2
        request c workers 5 ttl 30 => granted #3
        at 40
        request d workers 5 => granted #4, reclaimed #2
        list state active => #1 #3 #4
    ",
    );
    check(
        "a lease passed over for one shortage is the first to go for the next, and no other",
        "
        limits live 4
        request a many 100 ttl 10 => granted #1
        request b workers 5 ttl 20 => granted #2
        request c workers 5 ttl 30 => granted #3
        request d servers s001 ttl 35 => granted #4
        at 40
        request e workers 1 servers extra => granted #5, reclaimed #2 #1
        list state active => #3 #4 #5
    ",
    );
    check(
        "the job's own lease: the names start again",
        "
        request a workers 10 ttl 10 => granted #1
        at 10
        request a workers 2 => granted #2, reclaimed #1
        show #2 => active [0:8010 1:8011], until 70
        request a workers 1 => granted #3
        show #3 => active [2:8012], until 70
    ",
    );
    check(
        "a server that the request names starts again",
        "
        request a workers 10 servers x ttl 10 => granted #1
        at 10
        request b workers 1 servers x => granted #2, reclaimed #1
        show #2 => active [0:8010 x:9001], until 70
    ",
    );
    check(
        "a server that the request names needs the port it frees",
        "
        request a many 100 ttl 10 => granted #1
        at 10
        request b many 1-2 => granted #2
        at 20
        request c many 2-101 => Insufficient MCP server ports: requested 99 more, available 98 \
            (the limit is 100 servers, ports 9000-9099); retry at 70
        request c many 2-100 => granted #3
        release #2 => released #2, Requested: 0 workers 0.0 cores 0 MB after 10 s
        release #3 => released #3, Requested: 0 workers 0.0 cores 0 MB after 0 s
        request d many 2-101 => granted #4, reclaimed #1
    ",
    );
    check(
        "for the limit of live allocations",
        "
        limits live 1 history 0
        request a workers 1 ttl 10 id k => granted #1
        at 10
        request b workers 1 => granted #2, reclaimed #1
        show #1 => unknown
        request c workers 1 => Too many live allocations: 1 of 1 are held \
            (the limit is max_live_allocations); retry at 70
    ",
    );
}

#[test]
fn a_denial_names_the_time_of_a_retry() {
    check(
        "when enough leases will have expired",
        "
        request a workers 4 ttl 30 => granted #1
        request b workers 4 ttl 20 => granted #2
        request c workers 6 => Insufficient workers: requested 6, available 2; retry at 20
        request c workers 7 => Insufficient workers: requested 7, available 2; retry at 30
        request c workers 11 => Insufficient workers: requested 11, available 2
        renew #1 ttl 100 => renewed until 100
        request c workers 7 => Insufficient workers: requested 7, available 2; retry at 100
        at 20
        request c workers 7 => Insufficient workers: requested 7, available 6; retry at 100
    ",
    );
    check(
        "what is being released is waited for",
        "
        request a workers 10 => granted #1
        releasing #1
        request b workers 1 => capacity pending: Insufficient workers: requested 1, available 0
        request b workers 11 => Insufficient workers: requested 11, available 10
    ",
    );
}
