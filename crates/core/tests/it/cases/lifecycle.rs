//! Cases of history, settings, outages, lists, and leases between the two halves of a grant or a release.

use super::script::check;

#[test]
fn history_is_bounded() {
    check(
        "by count: the first to end is the first to go",
        "
        limits history 2
        request a workers 1 => granted #1
        request a workers 1 => granted #2
        request a workers 1 => granted #3
        release #2 => released #2, Requested: 1 workers 1.0 cores 2048 MB after 0 s
        release #3 => released #3, Requested: 1 workers 1.0 cores 2048 MB after 0 s
        release #1 => released #1, Requested: 1 workers 1.0 cores 2048 MB after 0 s
        list => #1 #3
        release #2 => Allocation #2 not found
        limits history 1
        list => #1
        limits history 0
        list => nothing
        list job a => nothing
    ",
    );
    check(
        "by age",
        "
        request a workers 1 => granted #1
        request a workers 1 => granted #2
        request a workers 1 => granted #3
        at 10
        release #2 => released #2, Requested: 1 workers 1.0 cores 2048 MB after 10 s
        at 20
        release #1 => released #1, Requested: 1 workers 1.0 cores 2048 MB after 20 s
        at 30
        trim older 20
        list => #1 #2 #3
        at 30.001
        trim older 20
        list => #1 #3
        at 9000
        trim older 0
        list => #3
    ",
    );
}

#[test]
fn settings_do_not_go_below_what_is_held() {
    check(
        "capacity",
        "
        request a workers 4 => granted #1
        capacity workers 3 cores 16 memory 32768 => capacity of node local cannot be lowered below what is leased: 4 \
            workers, 4.0 cores and 8192 MB are
        capacity workers 4 cores 3 memory 32768 => capacity of node local cannot be lowered below what is leased: 4 \
            workers, 4.0 cores and 8192 MB are
        capacity workers 4 cores 4 memory 8191 => capacity of node local cannot be lowered below what is leased: 4 \
            workers, 4.0 cores and 8192 MB are
        capacity workers 4 cores 4 memory 8192
        request b workers 1 => Insufficient workers: requested 1, available 0; retry at 60
        capacity workers 5 cores 5 memory 10240
        request b workers 1 => granted #2
    ",
    );
    check(
        "limits",
        "
        request a workers 1 => granted #1
        limits live 0 => max_live_allocations cannot be lowered to 0: 1 allocations are live
        limits live 1
        request b workers 1 => Too many live allocations: 1 of 1 are held \
            (the limit is max_live_allocations); retry at 60
    ",
    );
}

#[test]
fn each_node_is_counted_separately() {
    check(
        "an expired lease on another node frees nothing here",
        "
        request a workers 10 servers x ttl 10 => granted #1
        capacity node annex workers 2 cores 2 memory 4096
        request b workers 2 servers x ttl 20 => granted #2
        show #2 => active [0:8000 1:8001 x:9000], until 20
        at 15
        show => 2 live, 12 workers 12.0 cores 24576 MB leased, 10 workers reclaimable, servers x,x
        request c workers 1 => Insufficient workers: requested 1, available 0; retry at 20
        at 20
        request c workers 1 => granted #3, reclaimed #2
        list state active => #1 #3
    ",
    );
    check(
        "live allocations are counted over all nodes",
        "
        limits live 1
        request a workers 1 ttl 10 => granted #1
        capacity node annex workers 2 cores 2 memory 4096
        request b workers 1 => Too many live allocations: 1 of 1 are held \
            (the limit is max_live_allocations); retry at 10
        at 10
        request b workers 1 => granted #2, reclaimed #1
    ",
    );
}

#[test]
fn an_outage_is_followed_by_a_grace() {
    check(
        "for leases that expired during it, not for those that had before",
        "
        request a workers 1 ttl 10 => granted #1
        request b workers 1 ttl 30 => granted #2
        request c workers 1 ttl 55 => granted #3
        request d workers 1 ttl 95 => granted #4
        at 50
        outage since 20 grace 20
        show #1 => active [0:8000], expired at 10
        show #2 => active [0:8001], until 70
        show #3 => active [0:8002], until 70
        show #4 => active [0:8003], until 95
        sweep => expired #1
        next => #2 expires at 70
        at 69.999
        renew #3 ttl 60 => renewed until 129.999
        sweep => expired nothing
        at 70
        renew #2 => Allocation #2 expired at 70: call request_resources again
        sweep => expired #2
        next => #4 expires at 95
    ",
    );
    check(
        "a lease that was observed as expired stays expired",
        "
        request a workers 1 ttl 10 => granted #1
        at 15
        observe
        outage since 5 grace 20
        show #1 => active [0:8000], expired at 10
        renew #1 => Allocation #1 expired at 10: call request_resources again
    ",
    );
    check(
        "a lease renewed for less than the grace lasts until its end",
        "
        request a workers 1 ttl 60 => granted #1
        at 10
        outage since 5 grace 20
        renew #1 ttl 1 => renewed until 30
    ",
    );
    check(
        "spared deadlines are spread in their order",
        "
        request a workers 1 ttl 10 => granted #1
        request b workers 1 ttl 20 => granted #2
        request c workers 1 ttl 50 => granted #3
        request d workers 1 ttl 100 => granted #4
        request e workers 1 ttl 110 => granted #5
        at 60
        outage since 0 grace 20 spread 20
        show #1 => active [0:8000], until 82
        show #2 => active [0:8001], until 84
        show #3 => active [0:8002], until 90
        show #4 => active [0:8003], until 100
        show #5 => active [0:8004], until 110
        at 81.999
        sweep => expired nothing
        at 82
        sweep => expired #1
        next => #2 expires at 84
        at 89.999
        renew #3 ttl 60 => renewed until 149.999
        sweep => expired #2
    ",
    );
    check(
        "an outage during the spread changes nothing",
        "
        request a workers 1 ttl 10 => granted #1
        request b workers 1 ttl 50 => granted #2
        at 60
        outage since 0 grace 20 spread 20
        at 85
        show #1 => active [0:8000], expired at 82
        outage since 84 grace 1 spread 0
        show #1 => active [0:8000], expired at 82
        show #2 => active [0:8001], until 90
    ",
    );
    check(
        "a second outage within a grace spares only what the first did not",
        "
        request a workers 1 ttl 10 => granted #1
        at 20
        outage since 5 grace 20
        show #1 => active [0:8000], until 40
        request b workers 1 ttl 25 => granted #2
        at 35
        outage since 30 grace 20
        show #1 => active [0:8000], until 40
        show #2 => active [0:8001], until 55
        at 40
        show #1 => active [0:8000], expired at 40
        sweep => expired #1
        at 55
        show #2 => active [0:8001], expired at 55
    ",
    );
    check(
        "and never shortens it",
        "
        request a workers 1 ttl 10 => granted #1
        at 20
        outage since 5 grace 20
        at 25
        outage since 24 grace 1
        show #1 => active [0:8000], until 40
    ",
    );
    check(
        "a second outage after a grace brings nothing back",
        "
        request a workers 1 ttl 10 => granted #1
        request b workers 1 ttl 42 => granted #2
        at 20
        outage since 5 grace 20
        at 60
        outage since 41 grace 20
        renew #1 => Allocation #1 expired at 10: call request_resources again
        show #2 => active [0:8001], until 80
    ",
    );
    check(
        "an outage with a beginning in the future ends no lease early",
        "
        request a workers 1 ttl 60 => granted #1
        at 10
        outage since 100 grace 200
        show #1 => active [0:8000], until 210
        sweep => expired nothing
    ",
    );
    check(
        "a lease granted in a grace is spared as one that lived through the outage: deadlines keep their order",
        "
        request a workers 1 ttl 60 => granted #1
        at 60
        outage since 0 grace 20 spread 20
        at 61
        request b workers 1 ttl 4 => granted #2
        show #1 => active [0:8000], until 92
        show #2 => active [0:8001], until 93
        at 93
        sweep => expired #1 #2
        request c workers 1 ttl 4 => granted #3
        show #3 => active [0:8002], until 99.400
    ",
    );
    check(
        "a request meets leases in their grace as held",
        "
        request a workers 10 ttl 10 => granted #1
        at 20
        outage since 5 grace 20
        request b workers 1 => Insufficient workers: requested 1, available 0; retry at 40
        at 40
        request b workers 1 => granted #2, reclaimed #1
    ",
    );
}

#[test]
fn allocations_are_listed_oldest_first() {
    check(
        "by state and job, in pages",
        "
        request a workers 1 => granted #1
        request b workers 1 => granted #2
        request a workers 1 => granted #3
        request b workers 1 => granted #4
        reserve a workers 1 => granted #5
        reserve b workers 1 => granted #6
        releasing #4
        fail #6
        release #1 => released #1, Requested: 1 workers 1.0 cores 2048 MB after 0 s
        list => #1 #2 #3 #4 #5 #6
        list limit 2 => #1 #2
        list after 2 limit 2 => #3 #4
        list after 6 => nothing
        list after 18446744073709551615 => nothing
        list job a after 18446744073709551615 => nothing
        list state pending => #5
        list state active => #2 #3
        list state releasing => #4
        list state released => #1
        list state failed => #6
        list job a => #1 #3 #5
        list job b after 2 => #4 #6
        list job b state failed => #6
        list job a state failed => nothing
        list job c => nothing
        list job c state active => nothing
    ",
    );
}

#[test]
fn a_grant_and_an_end_have_two_halves() {
    check(
        "a reservation that is not activated has failed at its deadline",
        "
        reserve a workers 4 servers x ttl 600 => granted #1
        show #1 => pending [0:8000 1:8001 2:8002 3:8003 x:9000], until 60
        show => 1 live, 4 workers 4.0 cores 8192 MB leased, 0 workers reclaimable, servers x
        next => #1 fails at 60
        renew #1 => Allocation #1 is pending, and only an active one can be renewed: call request_resources again
        at 59.999
        sweep => expired nothing
        at 60
        sweep => expired #1
        show #1 => failed [0:8000 1:8001 2:8002 3:8003 x:9000], it was not activated in time
        show => 0 live, 0 workers 0.0 cores 0 MB leased, 0 workers reclaimable, servers none
        release #1 => #1 was released at 60
    ",
    );
    check(
        "the time to live runs from the activation",
        "
        reserve a workers 1 ttl 100 => granted #1
        at 30
        activate #1
        show #1 => active [0:8000], until 130
        next => #1 expires at 130
    ",
    );
    check(
        "what is being released holds all it held, for as long as it takes",
        "
        limits live 1
        request a workers 2 servers x ttl 10 => granted #1
        releasing #1
        show #1 => releasing [0:8000 1:8001 x:9000]
        next => nothing
        at 100
        sweep => expired nothing
        show => 1 live, 2 workers 2.0 cores 4096 MB leased, 0 workers reclaimable, servers x
        request b workers 1 => capacity pending: Too many live allocations: 1 of 1 are held \
            (the limit is max_live_allocations)
        renew #1 => Allocation #1 is releasing, and only an active one can be renewed: call request_resources again
        finish #1
        show => 0 live, 0 workers 0.0 cores 0 MB leased, 0 workers reclaimable, servers none
        request b workers 1 => granted #2
    ",
    );
    check(
        "a release that was begun keeps its reason",
        "
        request a workers 2 => granted #1
        releasing #1
        cancel #1 => released #1, Requested: 2 workers 2.0 cores 4096 MB after 0 s
    ",
    );
    check(
        "a reservation can be released, fail, or be reclaimed",
        "
        reserve a workers 5 => granted #1
        release #1 => released #1, Requested: 5 workers 5.0 cores 10240 MB after 0 s
        reserve a workers 5 => granted #2
        fail #2
        show #2 => failed [0:8005 1:8006 2:8007 3:8008 4:8009], no answer
        reserve a workers 10 => granted #3
        at 60
        request b workers 1 => granted #4, reclaimed #3
        list state failed => #2 #3
    ",
    );
    check(
        "a second lease on a server in its first half shares it",
        "
        reserve a servers x => granted #1
        request b servers x => granted #2
        show #2 => active [x:9000], until 60
        fail #1
        show => 1 live, 0 workers 0.0 cores 0 MB leased, 0 workers reclaimable, servers x
    ",
    );
}
