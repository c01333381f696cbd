//! Cases of the lease machine: scripts of commands with their answers. `cases/script.rs` describes the language.

mod lifecycle;
mod provisioning;
mod reclaim;
mod script;

use script::check;

#[test]
fn the_first_check_that_fails_gives_the_refusal() {
    check(
        "workers before all else",
        "
        limits live 0
        request a workers 20 many 101 => Insufficient workers: requested 20, available 10
        request a workers 4294967295 => Insufficient workers: requested 4294967295, available 10
        request a workers 18446744073709551615 => Insufficient workers: requested 18446744073709551615, available 10
    ",
    );
    check(
        "CPU, then memory",
        "
        limits live 0
        size millis 2001 memory 9999
        request a workers 8 many 101 => Insufficient CPU: requested 16.008 cores, available 16.0
        size millis 250 memory 9999
        request a workers 8 many 101 => Insufficient memory: requested 79992 MB, available 32768
    ",
    );
    check(
        "server ports, then worker ports, then live allocations",
        "
        limits live 0
        capacity workers 60000 cores 60000 memory 122880000
        request a workers 57437 many 101 => Insufficient MCP server ports: requested 101 more, available 100 \
            (the limit is 100 servers, ports 9000-9099)
        request a workers 57437 many 100 => Insufficient worker ports: requested 57437, available 57436 \
            (the limit is 57436 workers, ports 8000-65535 without 9000-9099)
        request a workers 57436 many 100 => Too many live allocations: 0 of 0 are held \
            (the limit is max_live_allocations)
    ",
    );
    check(
        "what is left is what the refusal names",
        "
        request a workers 7 ttl 30 => granted #1
        request b workers 4 => Insufficient workers: requested 4, available 3; retry at 30
        request b workers 3 => granted #2
        request c workers 1 => Insufficient workers: requested 1, available 0; retry at 30
    ",
    );
    check(
        "without a node",
        "
        no-node
        request a workers 1 => no node has a capacity yet
        show => 0 live, 0 workers 0.0 cores 0 MB leased, 0 workers reclaimable, servers none
    ",
    );
}

#[test]
fn a_request_gets_all_or_nothing() {
    check(
        "refused for its servers",
        "
        request a many 100 => granted #1
        request b workers 3 servers s001,extra => Insufficient MCP server ports: requested 1 more, available 0 \
            (the limit is 100 servers, ports 9000-9099); retry at 60
        show => 1 live, 0 workers 0.0 cores 0 MB leased, 0 workers reclaimable, servers 100
        request b workers 3 servers s001,s100 => granted #2
        show #2 => active [0:8000 1:8001 2:8002 s001:9000 s100:9099], until 60
        release #1 => released #1, Requested: 0 workers 0.0 cores 0 MB after 0 s
        show => 1 live, 3 workers 3.0 cores 6144 MB leased, 0 workers reclaimable, servers s001,s100
        request c servers extra => granted #3
        show #3 => active [extra:9001], until 60
    ",
    );
    check(
        "refused for the number of live allocations",
        "
        limits live 2
        request a workers 1 => granted #1
        request b ttl 9 servers x => granted #2
        request c servers x => Too many live allocations: 2 of 2 are held \
            (the limit is max_live_allocations); retry at 9
        limits live 1 => max_live_allocations cannot be lowered to 1: 2 allocations are live
        release #1 => released #1, Requested: 1 workers 1.0 cores 2048 MB after 0 s
        request c servers x => granted #3
    ",
    );
    check(
        "all worker ports",
        "
        capacity workers 57436 cores 57436 memory 117628928
        request a workers 57436 => granted #1
        capacity workers 60000 cores 60000 memory 122880000
        request b workers 1 => Insufficient worker ports: requested 1, available 0 \
            (the limit is 57436 workers, ports 8000-65535 without 9000-9099); retry at 60
    ",
    );
}

#[test]
fn servers_are_shared_on_a_stable_port() {
    check(
        "by reference count",
        "
        request a servers x,y,x => granted #1
        show #1 => active [x:9000 y:9001], until 60
        request b servers y => granted #2
        release #1 => released #1, Requested: 0 workers 0.0 cores 0 MB after 0 s
        show => 1 live, 0 workers 0.0 cores 0 MB leased, 0 workers reclaimable, servers y
        request c servers x,y => granted #3
        show #3 => active [x:9002 y:9001], until 60
        release #2 => released #2, Requested: 0 workers 0.0 cores 0 MB after 0 s
        request d servers y => granted #4
        show #4 => active [y:9001], until 60
    ",
    );
}

#[test]
fn workers_have_names_and_ports_of_their_own() {
    check(
        "a second allocation of a job goes on counting",
        "
        request a workers 2 => granted #1
        request a workers 1 => granted #2
        request b workers 1 => granted #3
        show #2 => active [2:8002], until 60
        show #3 => active [0:8003], until 60
        release #1 => released #1, Requested: 2 workers 2.0 cores 4096 MB after 0 s
        request a workers 1 => granted #4
        show #4 => active [3:8004], until 60
        release #2 => released #2, Requested: 1 workers 1.0 cores 2048 MB after 0 s
        release #4 => released #4, Requested: 1 workers 1.0 cores 2048 MB after 0 s
        request a workers 1 => granted #5
        show #5 => active [0:8005], until 60
    ",
    );
    check(
        "worker ports skip those of servers",
        "
        capacity workers 2000 cores 2000 memory 4096000
        request a workers 999 => granted #1
        request b workers 3 servers x => granted #2
        show #2 => active [0:8999 1:9100 2:9101 x:9000], until 60
    ",
    );
    check(
        "an id that is in use is replaced by the next",
        "
        limits history 1
        request a workers 1 random 7 => granted #1
        request b workers 1 random 7 => granted #2
        show alloc-000000000008 => active [0:8001], until 60
        request c workers 1 random 18446744073709551615 => granted #3
        request d workers 1 random 18446744073709551615 => granted #4
        show alloc-ffffffffffff => active [0:8002], until 60
        show alloc-000000000000 => active [0:8003], until 60
        release alloc-000000000007 => released #1, Requested: 1 workers 1.0 cores 2048 MB after 0 s
        request e workers 1 random 7 => granted #5
        show alloc-000000000009 => active [0:8004], until 60
    ",
    );
}

#[test]
fn a_lease_is_over_from_its_deadline_on() {
    check(
        "also before the sweep",
        "
        request a workers 4 ttl 60 => granted #1
        next => #1 expires at 60
        at 59.999
        show #1 => active [0:8000 1:8001 2:8002 3:8003], until 60
        sweep => expired nothing
        at 60
        show #1 => active [0:8000 1:8001 2:8002 3:8003], expired at 60
        show => 1 live, 4 workers 4.0 cores 8192 MB leased, 4 workers reclaimable, servers none
        observe
        show => 1 live, 4 workers 4.0 cores 8192 MB leased, 4 workers reclaimable, servers none
        next => nothing
        renew #1 => Allocation #1 expired at 60: call request_resources again
        sweep => expired #1
        show #1 => released [0:8000 1:8001 2:8002 3:8003]
        show => 0 live, 0 workers 0.0 cores 0 MB leased, 0 workers reclaimable, servers none
    ",
    );
    check(
        "the sweep goes on in batches, the longest overdue first",
        "
        request a workers 1 ttl 30 => granted #1
        request a workers 1 ttl 10 => granted #2
        request a workers 1 ttl 20 => granted #3
        request a workers 1 ttl 90 => granted #4
        at 60
        sweep 2 => expired #2 #3, more
        sweep 1 => expired #1
        sweep 1 => expired nothing
        release #2 => #2 was released at 60
        next => #4 expires at 90
    ",
    );
    check(
        "a release after the deadline is a release",
        "
        request a workers 1 ttl 10 => granted #1
        at 20
        release #1 => released #1, Requested: 1 workers 1.0 cores 2048 MB after 20 s
        release #1 => #1 was released at 20
        cancel #1 => #1 was released at 20
        release alloc-00000000abcd => Allocation alloc-00000000abcd not found
    ",
    );
    check(
        "a cancelled grant",
        "
        request a workers 1 => granted #1
        cancel #1 => released #1, Cancelled: 1 workers 1.0 cores 2048 MB after 0 s
    ",
    );
}

#[test]
fn a_repeated_request_is_answered_with_the_first_grant() {
    check(
        "with its current state",
        "
        request a workers 2 servers x ttl 30 note n id k => granted #1
        request a workers 2 servers x ttl 30 note n id k => repeated #1, active
        show => 1 live, 2 workers 2.0 cores 4096 MB leased, 0 workers reclaimable, servers x
        release #1 => released #1, Requested: 2 workers 2.0 cores 4096 MB after 0 s
        request a workers 2 servers x ttl 30 note n id k => repeated #1, released
        request a workers 2 servers x ttl 30 note n id other => granted #2
    ",
    );
    let other = "=> request_id k was used for another request, granted as #1: \
                 repeat that request unchanged, or choose a new request_id";
    check(
        "but not for another body",
        &format!(
            "
        request a workers 2 servers x ttl 30 note n id k => granted #1
        request b workers 2 servers x ttl 30 note n id k {other}
        request a workers 1 servers x ttl 30 note n id k {other}
        request a workers 2 servers y ttl 30 note n id k {other}
        request a workers 2 ttl 30 note n id k {other}
        request a workers 2 servers x ttl 31 note n id k {other}
        request a workers 2 servers x ttl 30 note m id k {other}
        request a workers 2 servers x ttl 30 note n priority high id k {other}
        request a workers 2 servers x ttl 30 note n priority medium id k => repeated #1, active
    "
        ),
    );
    check(
        "a refusal is not remembered",
        "
        request a workers 10 => granted #1
        request b workers 1 id k => Insufficient workers: requested 1, available 0; retry at 60
        release #1 => released #1, Requested: 10 workers 10.0 cores 20480 MB after 0 s
        request b workers 2 id k => granted #2
    ",
    );
    check(
        "as long as the record is kept",
        "
        limits history 1
        request a workers 1 id k => granted #1
        request b workers 1 => granted #2
        release #1 => released #1, Requested: 1 workers 1.0 cores 2048 MB after 0 s
        request a workers 1 id k => repeated #1, released
        release #2 => released #2, Requested: 1 workers 1.0 cores 2048 MB after 0 s
        show #1 => unknown
        request a workers 3 id k => granted #3
    ",
    );
    check(
        "also once it has expired",
        "
        request a workers 1 ttl 10 id k => granted #1
        at 20
        request a workers 1 ttl 10 id k => repeated #1, active
        sweep => expired #1
        request a workers 1 ttl 10 id k => repeated #1, released
    ",
    );
}

#[test]
fn a_renewal_keeps_the_token_and_moves_the_deadline() {
    check(
        "to now and its time to live",
        "
        request a workers 1 ttl 60 => granted #1
        request a workers 1 => granted #2
        at 10
        renew #1 => renewed until 70
        renew #1 ttl 5 token 1 => renewed until 15
        at 14
        renew #1 => renewed until 19
        renew #1 token 2 => fencing_token 2 is not that of allocation #1, which has 1: 2 does not hold this lease
        at 19
        renew #1 => Allocation #1 expired at 19: call request_resources again
        renew #1 token 2 => fencing_token 2 is not that of allocation #1, which has 1: 2 does not hold this lease
        release #1 => released #1, Requested: 1 workers 1.0 cores 2048 MB after 19 s
        renew #1 token 1 => Allocation #1 is released, and only an active one can be renewed: \
            call request_resources again
        renew alloc-00000000abcd => Allocation alloc-00000000abcd not found
    ",
    );
    check(
        "tokens go on growing when the records are gone",
        "
        limits history 0
        request a workers 1 => granted #1
        release #1 => released #1, Requested: 1 workers 1.0 cores 2048 MB after 0 s
        list => nothing
        request a workers 1 => granted #2
    ",
    );
}
