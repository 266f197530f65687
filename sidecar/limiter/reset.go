package limiter

import "context"

// Reset has Redis forget what a caller took until now: the next takes meet empty
// windows. Sidecars that remember that they refused the caller have to Forget it.
// What leases hold still counts, and what they were used for before. The take's
// cost means nothing; the errors are Take's.
func (l *Limiter) Reset(ctx context.Context, take Take) error {
	quotas, err := quotasOf(nil, []Take{take})
	if err != nil {
		return err
	}
	return l.within(ctx, func(ctx context.Context, b *backend) error {
		deadline, _ := ctx.Deadline()
		if err := b.alone().call([]*command{{verb: verbReset, id: newID(), quotas: quotas, length: giveLength.Nanoseconds(), deadline: deadline}}); err != nil {
			return b.Explain(err)
		}
		b.memory.forgetCallers(take.Namespace, take.Service, []string{take.Identity})
		return nil
	})
}

// Forget drops what this process remembers of some callers of a service, so that
// Redis decides on their next takes; it gives back the leases that it has for
// them.
func (l *Limiter) Forget(namespace, service string, identities []string) {
	if len(identities) == 0 {
		return
	}
	if b := l.acquire(); b != nil {
		defer b.calls.Done()
		b.memory.forgetCallers(namespace, service, identities)
	}
}
