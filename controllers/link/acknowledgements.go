package link

import (
	"cmp"
	"context"
	"crypto/rand"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/lru"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// Acknowledgement is the last thing that a pod said about itself.
type Acknowledgement struct {
	Namespace string              `json:"namespace"`
	Pod       string              `json:"pod"`
	UID       types.UID           `json:"uid"`
	Enforcing []ruleset.PolicyRef `json:"enforcing,omitempty"`
	Rejected  *ruleset.Rejection  `json:"rejected,omitempty"`
	// NotIntercepting names policies of which the pod cannot intercept some host.
	NotIntercepting []string `json:"notIntercepting,omitempty"`
	// StoreAwaySince is the Unix time since which the pod's sidecar has no answer
	// from the store; 0: it has.
	StoreAwaySince int64 `json:"storeAwaySince,omitempty"`
	// Seen is when the replica that the pod asked received it, and Since when the pod
	// had said something else before.
	Seen  time.Time `json:"seen"`
	Since time.Time `json:"since"`
	// Silent: the pod has asked no replica for silentAfter.
	Silent bool `json:"silent,omitempty"`
}

// silentAfter is longer than a sidecar that lives is silent: its longest backoff,
// and a request that is held by a dead connection.
const silentAfter = 90 * time.Second

// Generation of a policy that the pod enforces; 0: none.
func (a Acknowledgement) Generation(uid types.UID) int64 {
	for _, ref := range a.Enforcing {
		if ref.UID == string(uid) {
			return ref.Generation
		}
	}
	return 0
}

// Enforces says whether the pod enforces this edit of a policy.
func (a Acknowledgement) Enforces(uid types.UID, generation int64) bool {
	return slices.ContainsFunc(a.Enforcing, func(ref ruleset.PolicyRef) bool {
		return ref.UID == string(uid) && ref.Generation == generation
	})
}

// Intercepts says whether the pod ends TLS as far as a policy asks for it.
func (a Acknowledgement) Intercepts(policy string) bool {
	return !slices.Contains(a.NotIntercepting, policy)
}

// Acknowledgements remembers the last of every pod that lives: of those that
// asked this replica, and of those that asked a peer.
type Acknowledgements struct {
	// epoch names this memory, which a restart empties.
	epoch string
	// changed has the key "" for whatever was heard here.
	changed bells

	mu         sync.Mutex
	sequence   uint64
	namespaces map[string]map[types.UID]entry
	notify     func(namespace string)
	// refs are lists that pods have said, by the first and the number of their
	// policies: pods that are selected alike say the same, and keep it once.
	refs *lru.Cache
}

// maxRefs bounds the lists that are looked for again.
const maxRefs = 4096

type refsKey struct {
	first ruleset.PolicyRef
	count int
}

// shared is an equal list that some pod has said before.
func (a *Acknowledgements) shared(said []ruleset.PolicyRef) []ruleset.PolicyRef {
	if len(said) == 0 {
		return nil
	}
	key := refsKey{said[0], len(said)}
	if known, ok := a.refs.Get(key); ok && slices.Equal(known.([]ruleset.PolicyRef), said) {
		return known.([]ruleset.PolicyRef)
	}
	said = slices.Clip(said)
	a.refs.Add(key, said)
	return said
}

type entry struct {
	Acknowledgement
	// sequence of what was heard here; 0 for what a peer heard, which from is.
	sequence uint64
	from     *peer
}

// peer is another replica from its start to its end.
type peer struct {
	epoch string
	// answered is when it did last.
	answered time.Time
}

// NewAcknowledgements remembers nothing yet.
func NewAcknowledgements() *Acknowledgements {
	return &Acknowledgements{
		epoch:      rand.Text(),
		namespaces: map[string]map[types.UID]entry{},
		notify:     func(string) {},
		refs:       lru.New(maxRefs),
	}
}

// Notify sets who is told the namespace of every change.
func (a *Acknowledgements) Notify(notify func(namespace string)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.notify = notify
}

// Of is what the pods of a namespace said, by their UID.
func (a *Acknowledgements) Of(namespace string) map[types.UID]Acknowledgement {
	a.mu.Lock()
	defer a.mu.Unlock()
	said := make(map[types.UID]Acknowledgement, len(a.namespaces[namespace]))
	for uid, e := range a.namespaces[namespace] {
		said[uid] = e.Acknowledgement
	}
	return said
}

// Last is what a pod said last; false: nothing yet.
func (a *Acknowledgements) Last(namespace string, uid types.UID) (Acknowledgement, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e, known := a.namespaces[namespace][uid]
	return e.Acknowledgement, known
}

// Record keeps what a pod said to this replica.
func (a *Acknowledgements) Record(said Acknowledgement) {
	a.mu.Lock()
	before, known := a.namespaces[said.Namespace][said.UID]
	news := !known || !same(before.Acknowledgement, said)
	if said.Since = before.Since; news || said.Since.IsZero() {
		said.Since = said.Seen
	}
	next := entry{Acknowledgement: said, sequence: before.sequence}
	if news || before.sequence == 0 || before.Silent {
		a.sequence++
		next.sequence = a.sequence
	}
	a.put(next)
	notify, published := a.notify, next.sequence != before.sequence
	a.mu.Unlock()
	if news {
		notify(said.Namespace)
	}
	if published {
		a.changed.ring("")
	}
}

// answered notes when a peer did; false: it had not for so long that its pods may be
// taken for silent, and has to tell of all again.
func (a *Acknowledgements) answered(from *peer, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := from.answered
	from.answered = now
	return before.IsZero() || now.Sub(before) <= silentAfter
}

// merge keeps what a pod said to a peer, unless it said something later.
func (a *Acknowledgements) merge(said Acknowledgement, from *peer) {
	a.mu.Lock()
	before, known := a.namespaces[said.Namespace][said.UID]
	if known && before.Seen.After(said.Seen) {
		a.mu.Unlock()
		return
	}
	a.put(entry{Acknowledgement: said, from: from})
	notify := a.notify
	a.mu.Unlock()
	if !known || !same(before.Acknowledgement, said) {
		notify(said.Namespace)
	}
}

// hush notes which pods that asked this replica last have been silent, and tells
// peers; and which asked a peer that has not answered for as long: nobody else would
// say so.
func (a *Acknowledgements) hush(now time.Time) {
	a.mu.Lock()
	before := a.sequence
	for _, pods := range a.namespaces {
		for uid, e := range pods {
			if e.from != nil && e.from.answered.After(e.Seen) {
				e.Seen = e.from.answered // until then it would have said so
			}
			if e.Silent || now.Sub(e.Seen) <= silentAfter {
				continue
			}
			if e.Silent = true; e.from == nil {
				a.sequence++
				e.sequence = a.sequence
			}
			pods[uid] = e
		}
	}
	told := a.sequence != before
	a.mu.Unlock()
	if told {
		a.changed.ring("")
	}
}

func (a *Acknowledgements) put(e entry) {
	e.Enforcing = a.shared(e.Enforcing)
	if a.namespaces[e.Namespace] == nil {
		a.namespaces[e.Namespace] = map[types.UID]entry{}
	}
	a.namespaces[e.Namespace][e.UID] = e
}

// same says whether two reports of a pod say the same.
func same(a, b Acknowledgement) bool {
	return slices.Equal(a.Enforcing, b.Enforcing) && a.StoreAwaySince == b.StoreAwaySince && slices.Equal(a.NotIntercepting, b.NotIntercepting) &&
		reflect.DeepEqual(a.Rejected, b.Rejected)
}

// Forget a pod that is gone.
func (a *Acknowledgements) Forget(namespace string, uid types.UID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.namespaces[namespace], uid)
	if len(a.namespaces[namespace]) == 0 {
		delete(a.namespaces, namespace)
	}
}

// sweep forgets the pods that do not live: a peer may tell of one that this
// replica saw go before.
func (a *Acknowledgements) sweep(lives func(namespace, pod string, uid types.UID) bool) {
	a.mu.Lock()
	entries := a.entries()
	a.mu.Unlock()
	for _, e := range entries {
		if !lives(e.Namespace, e.Pod, e.UID) {
			a.Forget(e.Namespace, e.UID)
		}
	}
}

func (a *Acknowledgements) entries() []entry {
	var all []entry
	for _, pods := range a.namespaces {
		all = slices.AppendSeq(all, maps.Values(pods))
	}
	return all
}

// page is some of what a replica heard, oldest first.
type page struct {
	Epoch string `json:"epoch"`
	// Sequence to ask for what follows with.
	Sequence         uint64            `json:"sequence"`
	Acknowledgements []Acknowledgement `json:"acknowledgements"`
}

// maxPage bounds the acknowledgements of a page.
const maxPage = 1000

// after waits until this replica has heard something after a sequence of its
// epoch, and returns it; an empty page when ctx ends first.
func (a *Acknowledgements) after(ctx context.Context, epoch string, sequence uint64) page {
	if epoch != a.epoch {
		sequence = 0
	}
	rung, hangUp := a.changed.listen("")
	defer hangUp()
	for {
		if next := a.heardAfter(sequence); len(next.Acknowledgements) > 0 {
			return next
		}
		select {
		case <-rung:
		case <-ctx.Done():
			return page{Epoch: a.epoch, Sequence: sequence}
		}
	}
}

func (a *Acknowledgements) heardAfter(sequence uint64) page {
	a.mu.Lock()
	defer a.mu.Unlock()
	var heard []entry
	for _, pods := range a.namespaces {
		for _, e := range pods {
			if e.sequence > sequence {
				heard = append(heard, e)
			}
		}
	}
	slices.SortFunc(heard, func(x, y entry) int { return cmp.Compare(x.sequence, y.sequence) })
	next := page{Epoch: a.epoch, Sequence: sequence}
	for _, e := range heard[:min(len(heard), maxPage)] {
		next.Sequence = e.sequence
		next.Acknowledgements = append(next.Acknowledgements, e.Acknowledgement)
	}
	return next
}
