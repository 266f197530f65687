package report

import (
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/redistest"
)

// newRecorder of a pod, that sends when it is told to.
func newRecorder(t testing.TB, pod, url string) *Recorder {
	t.Helper()
	r := unclosed(pod, url)
	t.Cleanup(r.Close)
	return r
}

func unclosed(pod, url string) *Recorder {
	r := New(Options{Pod: pod, Logger: slog.New(slog.DiscardHandler)})
	r.Use(&ruleset.Store{URL: url, TimeoutMillis: 100})
	return r
}

func (r *Recorder) of(namespace, service string) *Recording {
	return r.Follow(namespace, []string{service})[0]
}

func (r *Recorder) counted(sent bool) float64 { return testutil.ToFloat64(r.sent[sent]) }

func mustRead(t testing.TB, client redis.UniversalClient, namespace, service string, now time.Time) Report {
	t.Helper()
	found, err := read(t.Context(), client, namespace, service, now)
	if err != nil {
		t.Fatalf("reading: %v", err)
	}
	return found
}

func sum(s Series) (all Counts) {
	for _, counts := range s.Buckets {
		all.add(counts)
	}
	return all
}

var perMinute = limiter.Quota{Limit: ruleset.Limit{Requests: 100, WindowMillis: 60_000}, RetryAfter: 7 * time.Second}

// noon is where tests begin that say what time it is: at the beginning of a
// bucket of each kind.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// What several pods count, while they send, is what is read, to one.
func TestCountsAreExact(t *testing.T) {
	t.Parallel()
	const pods, callers, requests = 4, 8, 5_000
	server := redistest.Start(t)
	var all sync.WaitGroup
	for pod := range pods {
		r := unclosed(fmt.Sprint("pod-", pod), server.URL())
		r.Start()
		recording := r.of("shop", "api")
		var counting sync.WaitGroup
		for n := range callers {
			counting.Go(func() {
				for i := range requests {
					switch identity := fmt.Sprint("user-", n); i % 5 {
					case 0:
						recording.Limited(identity, 2, perMinute, false, false)
					case 1:
						recording.Admitted(identity, 1, true)
					case 2:
						recording.Undecided()
					default:
						recording.Admitted(identity, 1, false)
					}
				}
			})
		}
		all.Go(func() { counting.Wait(); r.Close() })
	}
	all.Wait()
	found := mustRead(t, server.Client(), "shop", "api", time.Now())
	const each = pods * callers * requests / 5
	want := Counts{Admitted: 3 * each, Limited: each, WithoutRedis: 2 * each}
	if got := sum(found.Recent); got != want {
		t.Errorf("two minutes have %+v, want %+v", got, want)
	}
	if got := sum(found.Hour); got != want {
		t.Errorf("the hour has %+v, want %+v", got, want)
	}
	for n := range callers {
		want := Caller{fmt.Sprint("user-", n), 5 * each / callers, 2 * each / callers}
		if !slices.Contains(found.Callers, want) {
			t.Errorf("callers are %+v, want %+v among them", found.Callers, want)
		}
	}
	if len(found.Refusals) == 0 || len(found.Refusals) > maxRefusals {
		t.Errorf("there are %d refusals", len(found.Refusals))
	}
}

func TestSeries(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := server.Client()
	r := newRecorder(t, "pod", server.URL())
	recording := r.of("shop", "api")
	// Two minutes and a half, a report in every bucket of two seconds.
	for i := range 75 {
		for range i {
			recording.Admitted("user", 1, false)
		}
		recording.Limited("user", 1, perMinute, true, false)
		r.send(noon.Add(time.Duration(i)*every+every/2+time.Millisecond), true)
	}
	now := noon.Add(75 * every)
	found := mustRead(t, client, "shop", "api", now)
	if got, want := found.Recent.Begin, now.Add(-59*every); !got.Equal(want) || found.Recent.Step != every || len(found.Recent.Buckets) != 60 {
		t.Fatalf("two minutes begin at %v in %d steps of %v, want %v", got, len(found.Recent.Buckets), found.Recent.Step, want)
	}
	for i, got := range found.Recent.Buckets {
		want := Counts{Admitted: int64(16 + i), Limited: 1}
		if i == 59 {
			want = Counts{} // under way
		}
		if got != want {
			t.Errorf("bucket %d has %+v, want %+v", i, got, want)
		}
	}
	if got := found.Hour.Buckets[57:]; !slices.Equal(got, []Counts{
		{Admitted: 29 * 30 / 2, Limited: 30}, {Admitted: 30*30 + 29*30/2, Limited: 30}, {Admitted: 60*15 + 14*15/2, Limited: 15},
	}) {
		t.Errorf("the last minutes have %+v", got)
	}
	if got := found.Callers; len(got) != 1 || got[0] != (Caller{"user", 74*75/2 + 75, 75}) {
		t.Errorf("callers are %+v", got)
	}
	rated, err := rates(t.Context(), client, []Policy{{Namespace: "shop", Service: "none", Lately: time.Hour}, {Namespace: "shop", Service: "api"}}, now.Add(lag))
	if err != nil || !reflect.DeepEqual(rated, []Rate{{Callers: []Caller{}}, {Admitted: 72. / 2, Limited: .5, Callers: []Caller{}}}) {
		t.Errorf("rates are %+v, error %v; want the mean of buckets 70 to 74", rated, err)
	}
	if got := mustRead(t, client, "shop", "api", now.Add(10*time.Minute)); sum(got.Recent) != (Counts{}) || sum(got.Hour) != (Counts{Admitted: 74 * 75 / 2, Limited: 75}) {
		t.Errorf("ten minutes later: %+v", got)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	r := newRecorder(t, "pod-0", server.URL())
	recording := r.of("shop", "api")
	never := perMinute
	never.RetryAfter = -time.Second
	before := time.Now().Truncate(time.Millisecond)
	recording.Limited("often", 1, perMinute, false, false)
	recording.Limited("often", 1, perMinute, false, false)
	recording.Limited("", 1, never, true, false)
	r.send(time.Now(), true)
	found := mustRead(t, server.Client(), "shop", "api", time.Now()).Refusals
	if len(found) != 2 {
		t.Fatalf("refusals are %+v, want one of each caller", found)
	}
	slices.SortFunc(found, func(a, b Refusal) int { return strings.Compare(b.Identity, a.Identity) })
	often, unnamed := found[0], found[1]
	if often.Identity != "often" || often.Requests != 100 || often.Window != time.Minute || often.Pod != "pod-0" || often.Observed ||
		often.At.Before(before) || often.Frees.Sub(often.At) != 7*time.Second {
		t.Errorf("the refusal is %+v", often)
	}
	if unnamed.Identity != "" || !unnamed.Observed || !unnamed.Frees.IsZero() {
		t.Errorf("the one that can never pass is %+v", unnamed)
	}
}

// Whatever callers call themselves, and however many they are, what is kept of
// them is bounded, and who asks most is seen.
func TestHostileIdentities(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := server.Client()
	r := newRecorder(t, "pod", server.URL())
	recording := r.of("shop", "api")
	long := strings.Repeat("x", limiter.MaxIdentityBytes-8)
	strange := "\x00\xff}:*\r\n\"<script>"
	now := time.Now()
	for n := range 100 * maxCallers {
		recording.Limited(fmt.Sprintf("%s%08d", long, n), 1, perMinute, false, false)
		if n%10 == 0 {
			recording.Admitted(strange, 1, false)
		}
		if n%maxCallers == 0 {
			r.send(now, true)
		}
	}
	r.send(now, true)
	base := baseOf("shop", "api")
	minute := minutes.bucket(now.Add(-every / 2))
	for _, what := range []string{askedOf, limitedOf} {
		if n := client.ZCard(t.Context(), minuteKey(base, what, minute)).Val(); n != maxKept {
			t.Errorf("%d callers are kept, want %d", n, maxKept)
		}
	}
	if n := client.LLen(t.Context(), refusalsKey(base)).Val(); n != maxRefusals {
		t.Errorf("%d refusals are kept, want %d", n, maxRefusals)
	}
	for _, i := range []*interval{recording.now, recording.spare} {
		bytes := 0
		for _, c := range i.callers.callers[:cap(i.callers.callers)] {
			bytes += cap(c.name)
		}
		if cap(i.callers.callers) > 2*maxCallers || bytes > 2*maxCallers*limiter.MaxIdentityBytes {
			t.Errorf("an interval has room for %d callers, with names of %d bytes", cap(i.callers.callers), bytes)
		}
	}
	found := mustRead(t, client, "shop", "api", now)
	if got := found.Callers[0]; got.Identity != strange || got.Asked < 600 || got.Limited != 0 {
		t.Errorf("who asked most is %+v, want who did so 640 times", got)
	}
	if got := sum(found.Hour); got.Limited != 100*maxCallers {
		t.Errorf("%d were limited, want %d", got.Limited, 100*maxCallers)
	}
	if len(found.Callers) > 2*maxKept {
		t.Errorf("%d callers are told", len(found.Callers))
	}
}

// Many callers are told with the first report, then with every fifth, few with
// each, and none is lost.
func TestManyCallersAreToldTogether(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	r := newRecorder(t, "pod", server.URL())
	recording := r.of("shop", "api")
	told := func() (units int64) {
		for _, c := range mustRead(t, server.Client(), "shop", "api", time.Now()).Callers {
			units += c.Asked
		}
		return units
	}
	asked := int64(0)
	report := func(callers int) {
		for n := range callers {
			recording.Admitted(fmt.Sprint("user-", n), 1, false)
			asked++
		}
		r.send(time.Now(), false)
	}
	report(fewCallers + 1)
	if got := told(); got != asked {
		t.Errorf("of the first callers %d units are told, want %d", got, asked)
	}
	report(fewCallers)
	if got := told(); got != asked {
		t.Errorf("of few callers %d units are told, want %d", got, asked)
	}
	before := asked
	for range callersEach - 2 {
		report(fewCallers + 1)
	}
	r.send(time.Now(), false) // nothing happened
	if got := told(); got != before {
		t.Errorf("of many callers %d units are told, want %d", got, before)
	}
	r.send(time.Now(), false) // nothing happened, but it is their turn
	if got := told(); got != asked {
		t.Errorf("in the end %d units are told, want %d", got, asked)
	}
	for range callersEach {
		r.send(time.Now(), false) // nothing happened
	}
	report(fewCallers + 1)
	if got := told(); got != asked {
		t.Errorf("after a silence %d units are told, want %d", got, asked)
	}
	report(fewCallers + 1)
	r.Follow("shop", nil)
	r.send(time.Now(), false)
	if got := told(); got != asked {
		t.Errorf("of what is gone %d units are told, want %d", got, asked)
	}
}

// Rates come with the few who asked most of the time that is wanted.
func TestRatesTellWhoAskedMostLately(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	r := unclosed("pod", server.URL())
	recording := r.of("shop", "api")
	for minute, callers := range [][]string{{"old", "old", "old", "both"}, {"b", "b", "c", "c", "c", "d", "d", "d", "d", "both"}} {
		for _, caller := range callers {
			recording.Admitted(caller, 1, false)
		}
		r.send(noon.Add(time.Duration(minute)*4*time.Minute+time.Second), true)
	}
	now := noon.Add(4*time.Minute + 30*time.Second)
	for lately, want := range map[time.Duration][]Caller{
		0: {}, time.Minute: {{"d", 4, 0}, {"c", 3, 0}, {"b", 2, 0}, {"both", 1, 0}}, 24 * time.Hour: {{"d", 4, 0}, {"c", 3, 0}, {"old", 3, 0}, {"b", 2, 0}},
	} {
		found, err := rates(t.Context(), server.Client(), []Policy{{Namespace: "shop", Service: "api", Lately: lately}}, now)
		if err != nil || len(found[0].Callers) != len(want) {
			t.Fatalf("of the last %v: %+v, error %v", lately, found, err)
		}
		if got := found[0].Callers; !slices.Equal(got, want) {
			t.Errorf("of the last %v: %+v, want %+v", lately, got, want)
		}
	}
}

// Every key goes by itself.
func TestAllExpires(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := server.Client()
	r := newRecorder(t, "pod", server.URL())
	r.of("shop", "api").Limited("user", 1, perMinute, false, false)
	r.send(time.Now(), true)
	keys := client.Keys(t.Context(), "*").Val()
	if len(keys) != 5 {
		t.Fatalf("keys are %q, want five", keys)
	}
	for _, key := range keys {
		if left := client.PTTL(t.Context(), key).Val(); left <= 0 || left > 2*time.Hour {
			t.Errorf("%s expires in %v", key, left)
		}
	}
}

func TestNothingIsSentWhenNothingHappened(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	r := newRecorder(t, "pod", server.URL())
	r.of("shop", "api")
	r.send(time.Now(), true)
	if r.connection != nil || r.counted(true)+r.counted(false) != 0 {
		t.Error("something was sent")
	}
}

// What Redis does not take is dropped, and later reports arrive.
func TestRedisAwayAndBack(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := server.Client()
	r := newRecorder(t, "pod", server.URL())
	recording := r.of("shop", "api")
	report := func(sent bool) {
		t.Helper()
		before := r.counted(sent)
		recording.Limited("user", 1, perMinute, false, false)
		r.send(time.Now(), true)
		if r.counted(sent) != before+1 {
			t.Errorf("sent %v, dropped %v times: want sent %v", r.counted(true), r.counted(false), sent)
		}
	}
	report(true)
	server.Pause()
	sending := make(chan struct{})
	go func() { defer close(sending); report(false) }()
	for waiting := true; waiting; { // counting goes on
		recording.Admitted("user", 1, true)
		select {
		case <-sending:
			waiting = false
		default:
		}
	}
	server.Resume()
	server.Kill()
	report(false)
	server.Restart()
	for arrived := r.counted(true); r.counted(true) == arrived; { // the client dials again within a second
		recording.Limited("user", 1, perMinute, false, false)
		r.send(time.Now(), true)
		time.Sleep(10 * time.Millisecond)
		if t.Context().Err() != nil {
			t.Fatal("no report arrives after the restart")
		}
	}
	if got := sum(mustRead(t, client, "shop", "api", time.Now()).Recent); got.Limited != 1 {
		t.Errorf("after the restart there are %+v, want one limited", got)
	}
	r.Use(nil)
	report(false)
}

// Policies that are gone are told of once more, and forgotten.
func TestFollow(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	r := newRecorder(t, "pod", server.URL())
	both := r.Follow("shop", []string{"api", "other"})
	both[0].Admitted("user", 1, false)
	if again := r.Follow("shop", []string{"other"}); again[0] != both[1] {
		t.Error("a policy that stays is another")
	}
	r.send(time.Now(), true)
	if len(r.policies) != 1 {
		t.Errorf("%d policies are followed, want one", len(r.policies))
	}
	if got := sum(mustRead(t, server.Client(), "shop", "api", time.Now()).Recent); got.Admitted != 1 {
		t.Errorf("of what is gone there are %+v, want one admitted", got)
	}
	if none := (*Recorder)(nil).Follow("shop", []string{"api"}); len(none) != 1 || none[0] != nil {
		t.Error("nobody records something")
	}
}

// Rights are enough, and what a Recorder does not need is not among them: Redis
// counts the commands that ran, and notes those that it refused.
func TestRightsAreThoseInUse(t *testing.T) {
	t.Parallel()
	server, cluster := redistest.Start(t), redistest.StartCluster(t)
	for _, test := range []struct {
		reason, url string
		servers     []*redistest.Server
		client      redis.UniversalClient
	}{
		{"alone", server.URL(), []*redistest.Server{server}, server.Client()},
		{"a cluster", cluster.URL(), cluster.Servers, cluster.Client()},
	} {
		rights, err := Rights("shop", ruleset.Store{URL: test.url})
		if err != nil {
			t.Fatal(err)
		}
		command := []any{"ACL", "SETUSER", "weir", "reset", "on", ">pass"}
		for _, right := range rights {
			command = append(command, right)
		}
		for _, server := range test.servers {
			if err := server.Client().Do(t.Context(), command...).Err(); err != nil {
				t.Fatal(err)
			}
		}
		at, _ := url.Parse(test.url)
		at.User = url.UserPassword("weir", "pass")
		r := newRecorder(t, "pod", at.String())
		services := []string{"api", "other", "third", "fourth"} // on different nodes
		for _, recording := range r.Follow("shop", services) {
			recording.Limited("user", 1, perMinute, false, false)
		}
		r.send(time.Now(), true)
		if r.counted(true) != 1 {
			t.Errorf("%s: the report was not taken", test.reason)
		}
		r.Follow("bank", []string{"api"})[0].Admitted("user", 1, false)
		r.send(time.Now(), true)
		if r.counted(false) != 1 {
			t.Errorf("%s: a report of another namespace was taken", test.reason)
		}
		if _, err := Read(t.Context(), r.connection.Client(), "shop", "api"); err == nil {
			t.Errorf("%s: reading without the right to says nothing", test.reason)
		}
		used := map[string]bool{}
		for _, server := range test.servers {
			stats, err := server.Client().Info(t.Context(), "commandstats").Result()
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(stats) {
				name, _, _ := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":")
				used[name] = true
			}
		}
		for _, command := range commands {
			if !used[command] {
				t.Errorf("%s: %s is granted, and nothing used it", test.reason, command)
			}
		}
		for _, service := range services {
			if got := sum(mustRead(t, test.client, "shop", service, time.Now()).Recent); got.Limited != 1 {
				t.Errorf("%s: service %s has %+v, want one limited", test.reason, service, got)
			}
		}
		found, err := Hours(t.Context(), test.client, []Policy{{Namespace: "shop", Service: "third"}, {Namespace: "bank", Service: "api"}})
		if err != nil || sum(found[0]).Limited != 1 || sum(found[1]) != (Counts{}) {
			t.Errorf("%s: hours are %+v, error %v", test.reason, found, err)
		}
	}
}

// Whoever has a namespace's credential can write what they like: the reader takes
// no more than it bargains for, and says nothing that is not there.
func TestWhatOthersWroteIsBounded(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client, ctx := server.Client(), t.Context()
	now := time.Now()
	base := baseOf("shop", "api")
	huge := strings.Repeat("9", 1<<20)
	key, slot := seconds.place(base, seconds.bucket(now))
	client.HSet(ctx, key, fieldOf(slot, 'a'), huge, fieldOf(slot, 'l'), "-5", fieldOf(slot, 'w'), "x")
	client.Set(ctx, minuteKey(base, askedOf, minutes.bucket(now)), "x", 0)
	client.ZAdd(ctx, minuteKey(base, limitedOf, minutes.bucket(now)), redis.Z{Score: 5, Member: huge}, redis.Z{Score: -1, Member: "less"})
	client.Do(ctx, "ZADD", minuteKey(base, limitedOf, minutes.bucket(now)), "inf", "endless")
	for range maxRefusals {
		client.LPush(ctx, refusalsKey(base), huge, "{}", "[", `{"n":1,"w":9223372036854775807}`,
			`{"n":1,"w":1,"t":9000000000000000}`, `{"n":1,"w":1,"t":-9000000000000000}`, `{"n":1,"w":1,"f":9000000000000000}`) // years that JSON does not have
	}
	if found := mustRead(t, client, "shop", "api", now); sum(found.Recent) != (Counts{}) || len(found.Callers)+len(found.Refusals) > 0 {
		t.Errorf("found %+v", found)
	}
	client.FlushAll(ctx)
	for _, length := range []int{limiter.MaxIdentityBytes, limiter.MaxIdentityBytes + 1} {
		client.ZAdd(ctx, minuteKey(base, askedOf, minutes.bucket(now)), redis.Z{Score: 5, Member: huge[:length]})
	}
	if found := mustRead(t, client, "shop", "api", now); len(found.Callers) != 1 || len(found.Callers[0].Identity) != limiter.MaxIdentityBytes {
		t.Errorf("found %d callers, want the one whose name a sidecar could tell", len(found.Callers))
	}
	for _, kind := range []func(string){
		func(key string) { client.Set(ctx, key, "x", 0) }, func(key string) { client.HSet(ctx, key, "x", "y") },
	} {
		for _, key := range []string{key, minuteKey(base, askedOf, minutes.bucket(now)), refusalsKey(base)} {
			client.Del(ctx, key)
			kind(key)
		}
		mustRead(t, client, "shop", "api", now)
	}
}

// Every caller that asks for more than a 64th is among those that are kept, with no
// more than it asked for.
func TestSketch(t *testing.T) {
	t.Parallel()
	truth := map[string]int64{}
	var s sketch
	total := int64(0)
	for n := range 200_000 {
		identity := fmt.Sprint("many-", n%5_003)
		if n%3 == 0 {
			identity = fmt.Sprint("heavy-", n%20)
		}
		truth[identity]++
		total++
		s.ask(uint64(len(identity)), identity, 1) // equal hashes, too
	}
	kept := map[string]int64{}
	for _, c := range s.callers {
		kept[string(c.name)] = c.asked
		if c.asked > truth[string(c.name)] {
			t.Errorf("%s asked %d times, and is said to have asked %d times", c.name, truth[string(c.name)], c.asked)
		}
	}
	for identity := range maps.Keys(truth) {
		if _, ok := kept[identity]; !ok && truth[identity] > total/maxCallers {
			t.Errorf("%s asked %d times of %d, and is not kept", identity, truth[identity], total)
		}
	}
	if len(s.callers) != maxCallers {
		t.Errorf("%d callers are kept, want %d", len(s.callers), maxCallers)
	}
}
