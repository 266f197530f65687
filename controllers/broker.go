package controllers

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/utils/clock"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/link"
	"github.com/weir-dev/weir/controllers/manifests"
	"github.com/weir-dev/weir/worker/celery"
)

const (
	// brokerInterval is how often the files are read, and how often a broker
	// that does not answer is asked.
	brokerInterval = 2 * time.Second
	// brokerTimeout of one exchange: many tasks wait for the same few workers.
	brokerTimeout = 2 * time.Second
)

var (
	// errNoBroker: no file has a URL.
	errNoBroker = errors.New("the operator has no broker")
	// errProtected: the only URL has a password that nobody may see.
	errProtected = fmt.Errorf("%w: the limiter's Redis has a password, which goes into no namespace", errNoBroker)
)

// BrokerFiles are mounted files with a broker's settings.
type BrokerFiles struct {
	// URL holds redis:// or rediss://. While it is absent or empty, the next
	// files hold.
	URL string
	// CA holds PEM to verify a rediss:// server with; optional.
	CA string
	// Open: only a URL without a password counts. The broker's URL goes into the
	// namespaces of tasks, where the password of the limiter's store must not be.
	Open bool
}

// Broker reaches the broker that the files name now. All tasks share it.
type Broker struct {
	// Files in the order of their preference.
	Files  []BrokerFiles
	Clock  clock.PassiveClock
	Logger logr.Logger

	mu       sync.Mutex
	readAt   time.Time
	settings manifests.Broker
	client   *celery.Broker // nil: none
	problem  error          // why client is not what the files say

	silence    error // the last answer that failed
	silentTill time.Time
}

// Settings are what workers need; errNoBroker when there are none. What cannot
// be read leaves the settings as they were.
func (b *Broker) Settings() (manifests.Broker, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refresh()
	if b.client == nil {
		return manifests.Broker{}, b.problem
	}
	return b.settings, nil
}

// Client is the broker that the files name now. An error: there is none.
func (b *Broker) Client() (*celery.Broker, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refresh()
	if b.client == nil {
		return nil, b.problem
	}
	return b.client, nil
}

// Look reads what a task's status shows. Errors never hold the URL.
func (b *Broker) Look(ctx context.Context, task *v1alpha1.PeriodicTask) (*celery.Look, error) {
	client, err := b.current()
	if err != nil {
		return nil, err
	}
	look, err := client.Look(ctx, brokerKey(task), task.Spec.Task.Queue)
	b.heard(err)
	if err != nil {
		return nil, err
	}
	return &look, nil
}

// Purge removes the messages that a task put into its queue.
func (b *Broker) Purge(ctx context.Context, task *v1alpha1.PeriodicTask) (int, error) {
	client, err := b.current()
	if err != nil {
		return 0, err
	}
	removed, err := client.Purge(ctx, brokerKey(task), task.Spec.Task.Queue)
	b.heard(err)
	return removed, err
}

// brokerKey names a task to the broker.
func brokerKey(task *v1alpha1.PeriodicTask) string { return task.Namespace + "/" + task.Name }

// current is the client, unless it failed a moment ago: then others need not
// wait for the same.
func (b *Broker) current() (*celery.Broker, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refresh()
	if b.client == nil {
		return nil, b.problem
	}
	if b.Clock.Now().Before(b.silentTill) {
		return nil, b.silence
	}
	return b.client, nil
}

func (b *Broker) heard(err error) {
	if celery.IsRefusal(err) {
		err = nil // it does answer, and what it refuses is one task's affair
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.silence = err
	b.silentTill = time.Time{}
	if err != nil && !errors.Is(err, context.Canceled) {
		b.silentTill = b.Clock.Now().Add(brokerInterval)
	}
}

// refresh reads the files again when it is time.
func (b *Broker) refresh() {
	now := b.Clock.Now()
	if now.Sub(b.readAt) < brokerInterval && !b.readAt.IsZero() {
		return
	}
	b.readAt = now
	settings, err := b.read()
	if err == nil && b.client != nil && settings == b.settings {
		b.problem = nil
		return
	}
	var client *celery.Broker
	if err == nil {
		client, err = celery.Open(settings.URL, celery.Options{CABundle: []byte(settings.CABundle), Timeout: brokerTimeout})
	}
	if err == nil || errors.Is(err, errNoBroker) {
		b.replace(settings, client)
	} else if b.problem == nil || b.problem.Error() != err.Error() {
		b.Logger.Error(err, "the broker's settings stay as they were")
	}
	b.problem = err
}

func (b *Broker) read() (manifests.Broker, error) {
	none := errNoBroker
	for _, files := range b.Files {
		address, err := link.ReadSetting(files.URL)
		if err != nil {
			return manifests.Broker{}, fmt.Errorf("reading the broker's URL: %w", err)
		}
		if address == "" {
			continue
		}
		if files.Open && hasPassword(address) {
			none = errProtected
			continue
		}
		authorities, err := link.ReadSetting(files.CA)
		if err != nil {
			return manifests.Broker{}, fmt.Errorf("reading the authorities of the broker's certificate: %w", err)
		}
		return manifests.Broker{URL: address, CABundle: authorities}, nil
	}
	return manifests.Broker{}, none
}

// hasPassword errs on the side of yes: what cannot be read may hold one.
func hasPassword(text string) bool {
	u, err := url.Parse(text)
	if err != nil {
		return true
	}
	_, has := u.User.Password()
	return has || u.Query().Has("sentinel_password")
}

// replace lets those who use the old client finish.
func (b *Broker) replace(settings manifests.Broker, client *celery.Broker) {
	if old := b.client; old != nil {
		time.AfterFunc(2*brokerTimeout, func() { _ = old.Close() })
	}
	b.settings, b.client, b.silentTill = settings, client, time.Time{}
}
