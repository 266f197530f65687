package intercept

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// cache is leaves of an operator, in a bubble where time is ours.
func cache(t *testing.T, operator *authority, issue func(context.Context, []byte) ([]byte, error)) *leaves {
	t.Helper()
	if issue == nil {
		issue = operator.issue
	}
	l := newLeaves(issue, operator.pool(), slog.New(slog.DiscardHandler), func() {})
	t.Cleanup(l.close)
	return l
}

func mustGet(t *testing.T, l *leaves, name string) *leaf {
	t.Helper()
	f, err := l.get(t.Context(), name)
	if err != nil {
		t.Fatalf("a leaf for %s: %v", name, err)
	}
	return f
}

// wants is a table of these hosts.
func wants(hosts ...string) *table { return newTable([]ruleset.Policy{intercepting("p", hosts...)}) }

func TestLeavesAreRenewedWhileTheyAreUsed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		operator := newAuthority(t, "weir")
		operator.life = 6 * time.Hour
		l := cache(t, operator, nil)
		first := mustGet(t, l, host)
		time.Sleep(3 * time.Hour)
		if again := mustGet(t, l, host); again != first || operator.asked.Load() != 1 {
			t.Errorf("at half its life the leaf was asked for again")
		}
		time.Sleep(time.Hour + time.Minute) // past two thirds
		synctest.Wait()
		if operator.asked.Load() != 2 {
			t.Fatalf("after two thirds of its life the operator was asked %d times, want 2", operator.asked.Load())
		}
		second := mustGet(t, l, host)
		if second == first || second.certificate.Leaf.Equal(first.certificate.Leaf) {
			t.Error("the renewed leaf is not used")
		}
		if first.certificate.PrivateKey == second.certificate.PrivateKey {
			t.Error("the renewed leaf has the old key, want one of its own")
		}
	})
}

func TestLeavesThatNobodyUsesAreForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		operator := newAuthority(t, "weir")
		l := cache(t, operator, nil)
		mustGet(t, l, host)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if operator.asked.Load() != 1 {
			t.Errorf("the operator was asked %d times for a name that was used once, want 1", operator.asked.Load())
		}
		if at, ok := l.earliestExpiry(); ok {
			t.Errorf("the expiry %v of a forgotten leaf is still told", at)
		}
	})
}

func TestWantedLeavesAreHadBeforeAnybodyAsks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		operator := newAuthority(t, "weir")
		l := cache(t, operator, nil)
		l.follow(wants("a.test", "b.test", "*.c.test"), false)
		l.settle(t.Context())
		if asked := operator.asked.Load(); asked != 3 {
			t.Errorf("asked for %d names, want 2 and one of the wildcard", asked)
		}
		mustGet(t, l, "a.test")
		if operator.asked.Load() != 3 {
			t.Error("asked again for a name that was there")
		}
		time.Sleep(10 * time.Hour)
		synctest.Wait()
		if asked := operator.asked.Load(); asked < 3*11 {
			t.Errorf("asked %d times in ten lives of three leaves: they are not renewed without use", asked)
		}
		l.follow(wants("b.test"), false)
		before := operator.asked.Load()
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if asked := operator.asked.Load() - before; asked < 2 || asked > 4 {
			t.Errorf("asked %d times in two lives, want it for the one name that is left", asked)
		}
	})
}

func TestALeafIsUsedUntilItExpires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		operator := newAuthority(t, "weir")
		var away atomic.Bool
		l := cache(t, operator, func(ctx context.Context, request []byte) ([]byte, error) {
			if away.Load() {
				return nil, errors.New("away")
			}
			return operator.issue(ctx, request)
		})
		first := mustGet(t, l, host)
		away.Store(true)
		for range 59 {
			time.Sleep(time.Minute)
			if mustGet(t, l, host) != first {
				t.Fatal("another leaf while the operator is away")
			}
		}
		time.Sleep(2 * time.Minute)
		if _, err := l.get(t.Context(), host); err == nil {
			t.Error("a leaf that has expired is used")
		}
		away.Store(false)
		time.Sleep(longestBackoff * 5 / 4)
		if mustGet(t, l, host) == first {
			t.Error("the operator is back, and the leaf is the old one")
		}
	})
}

func TestFailuresAreRememberedBriefly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var times []time.Duration
		began := time.Now()
		l := cache(t, newAuthority(t, "weir"), func(context.Context, []byte) ([]byte, error) {
			times = append(times, time.Since(began))
			return nil, errors.New("no")
		})
		for time.Since(began) < 2*time.Minute { // a client every 100 ms
			if _, err := l.get(t.Context(), host); err == nil {
				t.Fatal("a leaf from nowhere")
			}
			time.Sleep(100 * time.Millisecond)
		}
		want := []time.Duration{0, 1, 3, 7, 15, 31, 61, 91}
		for k := range want {
			want[k] *= time.Second
		}
		if !slices.Equal(times, want) {
			t.Errorf("asked at %v, want %v", times, want)
		}
	})
}

func TestWantedLeavesAreAskedForUntilTheyCome(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		operator := newAuthority(t, "weir")
		var asked atomic.Int32
		l := cache(t, operator, func(ctx context.Context, request []byte) ([]byte, error) {
			if asked.Add(1) < 4 {
				return nil, errors.New("starting")
			}
			return operator.issue(ctx, request)
		})
		l.follow(wants(host), false)
		time.Sleep(10 * time.Second) // 1 + 2 + 4, and a quarter of it at most
		synctest.Wait()
		if f := mustGet(t, l, host); f == nil || asked.Load() != 4 {
			t.Errorf("asked %d times, want 4, the last with success", asked.Load())
		}
	})
}

func TestWaitingForALeafIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		l := cache(t, newAuthority(t, "weir"), func(ctx context.Context, _ []byte) ([]byte, error) {
			asked.Add(1)
			<-ctx.Done()
			return nil, ctx.Err()
		})
		began := time.Now()
		var waiting sync.WaitGroup
		for range 50 {
			waiting.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if _, err := l.get(ctx, host); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%v, want the end of the wait", err)
				}
			})
		}
		waiting.Wait()
		if waited := time.Since(began); waited != time.Second || asked.Load() != 1 {
			t.Errorf("waited %v for %d requests, want 1 s for 1", waited, asked.Load())
		}
		time.Sleep(issueTimeout)
		if _, err := l.get(t.Context(), host); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after the request's own bound: %v, want it to have ended", err)
		}
	})
}

func TestLeavesAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		operator := newAuthority(t, "weir")
		l := cache(t, operator, nil)
		name := func(n int) string { return fmt.Sprintf("n%d.test", n) }
		for n := range maxLeaves {
			mustGet(t, l, name(n))
		}
		mustGet(t, l, name(0)) // used again, so the second is the one to go
		mustGet(t, l, name(maxLeaves))
		if got := len(l.entries.elements); got != maxLeaves {
			t.Errorf("%d leaves are kept, want %d", got, maxLeaves)
		}
		before := operator.asked.Load()
		mustGet(t, l, name(0))
		if operator.asked.Load() != before {
			t.Error("the leaf that was used last was forgotten")
		}
		mustGet(t, l, name(1))
		if operator.asked.Load() != before+1 {
			t.Error("the leaf that was not used for longest was not forgotten")
		}
	})
}

func TestFewLeavesAreAskedForAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		operator := newAuthority(t, "weir")
		var now, most atomic.Int32
		l := cache(t, operator, func(ctx context.Context, request []byte) ([]byte, error) {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			defer now.Add(-1)
			time.Sleep(10 * time.Millisecond)
			return operator.issue(ctx, request)
		})
		var hosts []string
		for n := range 60 {
			hosts = append(hosts, fmt.Sprintf("n%d.test", n))
		}
		l.follow(wants(hosts...), false)
		l.settle(t.Context())
		if most.Load() != maxAsking || operator.asked.Load() != 60 {
			t.Errorf("%d requests, up to %d at a time; want 60, up to %d", operator.asked.Load(), most.Load(), maxAsking)
		}
	})
}

func TestLeavesMustBeWhatWasAskedFor(t *testing.T) {
	t.Parallel()
	operator := newAuthority(t, "weir")
	for reason, answer := range map[string]func(csr *x509.CertificateRequest) []byte{
		"for another key":  func(*x509.CertificateRequest) []byte { return encode1(operator.leaf(newKey(t).Public(), host)) },
		"for another name": func(csr *x509.CertificateRequest) []byte { return encode1(operator.leaf(csr.PublicKey, "other.test")) },
		"expired": func(csr *x509.CertificateRequest) []byte {
			old := newAuthority(t, "weir")
			old.life = -time.Second
			return encode1(old.leaf(csr.PublicKey, host))
		},
		"empty": func(*x509.CertificateRequest) []byte { return nil },
		"with a key in it": func(*x509.CertificateRequest) []byte {
			return []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
		},
		"of a megabyte": func(*x509.CertificateRequest) []byte { return make([]byte, 1<<20) },
	} {
		l := cache(t, operator, func(_ context.Context, request []byte) ([]byte, error) {
			csr, err := x509.ParseCertificateRequest(request)
			if err != nil {
				return nil, err
			}
			return answer(csr), nil
		})
		if f, err := l.get(t.Context(), host); err == nil {
			t.Errorf("a leaf %s was taken: %v", reason, f.certificate.Leaf.DNSNames)
		}
	}
}

func encode1(c *x509.Certificate) []byte { return encode([]*x509.Certificate{c}) }

// An authority was followed by another: who knows only the first one trusts
// the leaves of both, as the second is signed by the first.
func TestLeavesFollowTheAuthority(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		first := newAuthority(t, "weir")
		second := first.succeed("weir")
		third := second.succeed("weir")
		operator := first
		l := cache(t, first, func(ctx context.Context, request []byte) ([]byte, error) { return operator.issue(ctx, request) })
		l.follow(wants(host), false)
		l.settle(t.Context())
		before := mustGet(t, l, host)
		for _, next := range []*authority{second, third} {
			operator = next
			l.follow(wants(host), true)
			if mustGet(t, l, host) != before {
				t.Error("a leaf that is valid was given up before the next one came")
			}
			time.Sleep(rotationSpread)
			synctest.Wait()
			after := mustGet(t, l, host)
			if after == before || !after.trusted {
				t.Errorf("after the rotation the leaf is the old one (%v) or not trusted (%v)", after == before, !after.trusted)
			}
			before = after
		}
	})
}
