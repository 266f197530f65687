// Package limiter holds the requests of all sidecars together to sliding
// windows kept in Redis.
//
// # The promises
//
// Time is the Redis server's, in microseconds. A quota is a triple (identity,
// n, w): a caller of one service in one namespace, n units, a window of length
// w. A take asks for a cost c ≥ 1 of some quotas at once. Let A be the takes
// admitted, over all sidecars, t(a) the time at which a was admitted, by Redis or
// from a lease, and c(a, q) what a took of quota q. Then
//
//   - Never over. For every quota q = (identity, n, w) and every instant x:
//     Σ c(a, q) over a ∈ A with x−w < t(a) ≤ x is at most n.
//   - Denials are free. A refused take adds nothing to any sum: what Redis
//     holds after it is, byte for byte, what it held before; most are remembered
//     and need no Redis.
//   - All or nothing. A take is in A for all its quotas or for none.
//   - Never late, up to 128 units. A take at time x is refused only if some
//     quota's sum at x plus its cost exceeds n. With n above 128 a unit may
//     count for a slice (w/200) too long, and what leases hold counts.
//   - Retry-After is exact. A refused take that comes again after RetryAfter
//     is admitted if nobody took meanwhile, and refused a microsecond earlier.
//     It is negative if and only if some cost exceeds its n.
//   - Once. A take that is sent again because its reply was lost counts once.
//   - Bounded memory. A quota holds at most 160 entries of 19 bytes, or 1,600 bytes
//     (Redis allots up to twice that) and some 40 to 90 for each open lease, 1,024 at
//     most; and nothing soon after its window has passed without an admission.
//   - Bounded time. Take and Remaining return within the store's timeout (and
//     10 ms for the scheduler), whatever Redis and the network do.
//
// # What holds them
//
// A limit of up to 128 has an exact log: for each identity and window a string of
// entries, one for each take, with the time of its admission and the units taken
// until then. The sum over (x−w, x] is a difference of two such numbers. A larger
// one has a sliced log: the units of each 200th of the window that has some, where a
// unit counts as if it was taken at the end of its slice. One Lua script (take.lua)
// reads the time, counts every quota, and only if all have room writes to any of them;
// Redis runs scripts one at a time, so what it counted is still true when it writes. A
// refused take returns before the first write.
//
// With m units in the window, a take of c over the limit n is admitted as soon
// as m−n+c of them have left, hence when the unit of rank m−n+c−1 (from 0, the
// oldest first) does: at its time plus w. That stays right when a limit was
// lowered below m, and for any cost.
//
// The id of an entry is random and new for each take, and is the same when the
// client library sends the take again; the script answers "admitted" when it
// finds it. A sliced log keeps no ids: there a take without a lease that is
// sent again counts twice, in favour of the limit. Keys expire, in the same script, a
// second and at most a 16th of the window after the last unit may have left.
//
// The server's clock may step back, as after a failover. Each key's time is
// max(clock, its newest time), so its sums never shrink early. RetryAfter is
// still counted from the clock, whose time the caller's will be.
//
// # Leases
//
// Far from a limit above 128 a process takes more units than it needs, at most an
// eighth of what remains, for at most a sixth of the window and ten seconds. The
// log has them as if they were used at the lease's end e. Then the process admits
// by itself until e, by a clock that never steps and that began before it asked.
//
// Why no window is ever over: let g be the last grant, of a lease or of a single
// take, among those that serve the window (x−w, x]. Every unit used in that
// window was granted by then, and its place in the log is not before its use, so
// it is after x−w ≥ g−w. Hence the script counted it at g, and the sum was at most
// n. Where a lease has not been used at x, that only helps.
//
// Settling a lease moves its units to the slices in which they were used, told in
// 32nds of its length and never before the use, and takes out those that nobody
// used; the process uses none of them afterwards. So the argument holds on. The
// script keeps open leases in a hash, so that one that is settled twice, or whose
// grant's reply was lost, is settled once. A process that is killed leaves its
// leases in the logs until a window after their ends.
//
// The size follows use: as much as the last lease served, or twice as much if it
// was used up. An identity that is asked for once a while has none.
//
// # Remembered refusals
//
// The script says when the next unit leaves. Until then, counted from before it was
// asked, the same take is refused without Redis: at most for 10 s, and for
// 20 s when it is refused again. Where others may give back leases, for 1 s, 2 s and 4 s.
//
// # Redis Cluster
//
// All keys of an identity share a hash tag, so one script decides them. A
// take that meets several tags goes to each in turn, in the same order
// everywhere, and gives back what it took when one refuses or fails. Never
// over and all or nothing hold for what is admitted in the end. Between taking
// and giving back another caller can be refused that would have had room: the
// one case in which never late does not hold.
//
// # Without Redis
//
// A call that Redis did not answer in time opens a breaker: further calls fail at
// once, with the same error, until a probe is answered. TakeLocally then admits
// from this process's share of each limit, by a ledger of what this process
// admitted lately, which has a sliced window for each quota on a clock that never
// steps. With n units, s sharers and at least as many as there are processes, all
// of them admit at most max(n, s) in any window that lies within the outage, and
// n more in one that meets its begin or end. Before a breaker closes, Redis is
// told of what was admitted without it, at times that are not before it was. So
// a window of which Redis decides the last take, when all have told, holds at
// most n again.
//
// # What Redis must allow
//
// Rights has the rules of an ACL user for one namespace: its keys, and what the
// Limiter and its script call. Where scripts may not read the server's clock, the
// store's URL may say clock=caller: then "Redis's time" above is each process's own,
// and with clocks at most e apart and a store timeout d never over holds for windows
// of w−e−d. The tests run on Redis 7.0.
//
// # What breaks them
//
//   - Redis losing acknowledged writes: a failover to a replica that had not
//     received them, a restart without persistence, a flush, an eviction
//     (maxmemory-policy other than noeviction, which the operator warns of). As many
//     units are admitted again as entries were lost, and no more (and what
//     leases held, which goes on being used); the window heals as it slides.
//   - Redis not answering. Take returns ErrStore, and it is the policy's
//     onStoreFailure that decides; see Without Redis. Such a take may have been counted, and on
//     Redis Cluster what it took before the failure is given back as soon as
//     those nodes answer within another timeout; if they do not, it leaves with
//     the window. Both err towards fewer requests, never more.
//   - A clock of a Redis Cluster's node that steps back after a take was given
//     back: that take has let go of what had left the window at its time.
//   - A clock that steps back by more than the window: a caller at its limit is
//     let in when its key expires, before RetryAfter but never before the
//     window passed in real time.
package limiter
