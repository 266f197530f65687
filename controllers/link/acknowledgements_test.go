package link

import (
	"context"
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// said is what a pod said some seconds after the epoch.
func said(pod string, generation int64, second int) Acknowledgement {
	return Acknowledgement{
		Namespace: "shop", Pod: pod, UID: types.UID(pod),
		Enforcing: []ruleset.PolicyRef{{Name: "api", UID: "p", Generation: generation}},
		Seen:      epoch.Add(time.Duration(second) * time.Second),
	}
}

func TestTheLastThingThatAPodSaidHolds(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		reason string
		do     func(*Acknowledgements)
		want   int64
		told   int
	}{
		{"a pod that repeats itself is no news", func(a *Acknowledgements) { a.Record(said("a", 1, 1)); a.Record(said("a", 1, 2)) }, 1, 1},
		{"a pod that cannot intercept any more is news", func(a *Acknowledgements) {
			a.Record(said("a", 1, 1))
			blind := said("a", 1, 2)
			blind.NotIntercepting = []string{"api"}
			a.Record(blind)
			a.merge(blind, &peer{})
		}, 1, 2},
		{"a new generation is", func(a *Acknowledgements) { a.Record(said("a", 1, 1)); a.Record(said("a", 2, 2)) }, 2, 2},
		{"what a peer heard later holds", func(a *Acknowledgements) { a.Record(said("a", 1, 1)); a.merge(said("a", 2, 2), &peer{}) }, 2, 2},
		{"what a peer heard earlier does not", func(a *Acknowledgements) { a.Record(said("a", 2, 2)); a.merge(said("a", 1, 1), &peer{}) }, 2, 1},
		{"a pod that comes back from a peer holds", func(a *Acknowledgements) { a.merge(said("a", 2, 2), &peer{}); a.Record(said("a", 1, 3)) }, 1, 2},
		{"a pod that is gone is forgotten", func(a *Acknowledgements) { a.Record(said("a", 1, 1)); a.Forget("shop", "a") }, 0, 1},
	} {
		a := NewAcknowledgements()
		told := 0
		a.Notify(func(string) { told++ })
		test.do(a)
		var got int64
		if last, ok := a.Of("shop")["a"]; ok {
			got = last.Enforcing[0].Generation
		}
		if got != test.want || told != test.told {
			t.Errorf("%s: got generation %d and %d notices, want %d and %d", test.reason, got, told, test.want, test.told)
		}
	}
}

func TestAPeerReadsWhatItHasNotHeard(t *testing.T) {
	t.Parallel()
	a := NewAcknowledgements()
	const pods = maxPage + 10
	for i := range pods {
		a.Record(said(fmt.Sprintf("pod-%d", i), 1, i))
	}
	a.merge(said("of a peer", 1, 1), &peer{})

	one := a.after(t.Context(), "", 0)
	two := a.after(t.Context(), one.Epoch, one.Sequence)
	if len(one.Acknowledgements) != maxPage || len(two.Acknowledgements) != pods-maxPage {
		t.Fatalf("got pages of %d and %d, want %d and %d", len(one.Acknowledgements), len(two.Acknowledgements), maxPage, pods-maxPage)
	}

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if nothing := a.after(ended, two.Epoch, two.Sequence); len(nothing.Acknowledgements) != 0 || nothing.Sequence != two.Sequence {
		t.Errorf("with nothing new: got %+v", nothing)
	}
	if all := a.after(t.Context(), "of another life", two.Sequence); len(all.Acknowledgements) != maxPage {
		t.Errorf("after a restart: got %d acknowledgements, want all again", len(all.Acknowledgements))
	}

	waiting := make(chan page)
	go func() { waiting <- a.after(t.Context(), two.Epoch, two.Sequence) }()
	a.Record(said("pod-0", 2, pods))
	if next := <-waiting; len(next.Acknowledgements) != 1 || next.Acknowledgements[0].Enforcing[0].Generation != 2 {
		t.Errorf("after news: got %+v", next)
	}
}

func TestSweepForgetsPodsThatDoNotLive(t *testing.T) {
	t.Parallel()
	a := NewAcknowledgements()
	a.Record(said("a", 1, 1))
	a.Record(said("b", 1, 1))
	a.sweep(func(_, pod string, _ types.UID) bool { return pod == "b" })
	if left := a.Of("shop"); len(left) != 1 || left["b"].Pod != "b" {
		t.Errorf("got %v", left)
	}
}

// A pod that asks nobody any more is silent at every replica, from when it asked
// last, until it asks again; since when it says what it says stays the same.
func TestSilentPodsAreTold(t *testing.T) {
	t.Parallel()
	here, there := NewAcknowledgements(), NewAcknowledgements()
	alive := peer{answered: epoch.Add(time.Hour)}
	var heard page
	bring := func() {
		heard = here.heardAfter(heard.Sequence)
		for _, said := range heard.Acknowledgements {
			there.merge(said, &alive)
		}
	}
	is := func(when string, seen, since int, silent bool) {
		t.Helper()
		bring()
		for _, a := range []*Acknowledgements{here, there} {
			said := a.Of("shop")["a"]
			if a == there && !silent {
				said.Seen = epoch.Add(time.Duration(seen) * time.Second) // peers are told only of what is new
			}
			if !said.Seen.Equal(epoch.Add(time.Duration(seen)*time.Second)) || !said.Since.Equal(epoch.Add(time.Duration(since)*time.Second)) || said.Silent != silent {
				t.Errorf("%s: got %+v", when, said)
			}
		}
	}
	here.Record(said("a", 1, 0))
	here.Record(said("a", 1, 30))
	is("after a repetition", 30, 0, false)
	here.hush(epoch.Add(100 * time.Second))
	there.hush(epoch.Add(time.Hour))
	is("as long as it may be", 30, 0, false)
	here.hush(epoch.Add(121 * time.Second))
	is("afterwards", 30, 0, true)
	sequence := here.sequence
	here.hush(epoch.Add(200 * time.Second))
	if here.sequence != sequence {
		t.Error("it is told twice")
	}
	here.Record(said("a", 1, 300))
	is("asking again", 300, 0, false)
	here.Record(said("a", 2, 310))
	is("with something else", 310, 310, false)
	there.Record(said("a", 2, 400)) // it asks the other replica
	if got := there.Of("shop")["a"].Since; !got.Equal(epoch.Add(310 * time.Second)) {
		t.Errorf("at another replica it says so since %v", got)
	}
	for _, said := range there.heardAfter(0).Acknowledgements {
		here.merge(said, &alive)
	}
	here.hush(epoch.Add(time.Hour))
	if here.Of("shop")["a"].Silent {
		t.Error("a pod that asks another replica is silent")
	}
}

// A replica that is gone does not say which of its pods are silent: those that ask no
// other are, from when it answered last, until it is back and says otherwise.
func TestPodsOfADeadReplicaAreSilent(t *testing.T) {
	t.Parallel()
	a, from := NewAcknowledgements(), &peer{epoch: "its"}
	is := func(when string, seen int, silent bool) {
		t.Helper()
		if said := a.Of("shop")["a"]; !said.Seen.Equal(epoch.Add(time.Duration(seen)*time.Second)) || said.Silent != silent {
			t.Errorf("%s: got %+v", when, said)
		}
	}
	answered := func(second int) bool { return a.answered(from, epoch.Add(time.Duration(second)*time.Second)) }
	answered(0)
	a.merge(said("a", 1, 0), from)
	if !answered(80) || !answered(160) {
		t.Error("it has to tell again though it has answered")
	}
	a.hush(epoch.Add(250 * time.Second))
	is("while it answers", 0, false)
	a.hush(epoch.Add(251 * time.Second))
	is("afterwards", 160, true)
	if told := a.heardAfter(0).Acknowledgements; told != nil {
		t.Errorf("peers are told %v of another", told)
	}
	if answered(300) {
		t.Error("it does not have to tell again")
	}
	a.merge(said("a", 1, 290), from)
	a.hush(epoch.Add(300 * time.Second))
	is("when it is back", 290, false)
	a.hush(epoch.Add(391 * time.Second))
	a.Record(said("a", 1, 400))
	is("when the pod asks here", 400, false)
	if told := a.heardAfter(0).Acknowledgements; len(told) != 1 {
		t.Errorf("peers are told %v", told)
	}
}

// BenchmarkHeardAfter tells a peer of one of 10,000 pods, as each change does.
func BenchmarkHeardAfter(b *testing.B) {
	a := NewAcknowledgements()
	for i := range 10000 {
		a.Record(said(fmt.Sprint(i), 1, 0))
	}
	b.ReportAllocs()
	for b.Loop() {
		if told := a.heardAfter(9999); len(told.Acknowledgements) != 1 {
			b.Fatal(len(told.Acknowledgements))
		}
	}
}
