package link

import (
	"context"
	"slices"
	"time"

	"github.com/go-logr/logr"

	"github.com/weir-dev/weir/controllers/programming"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// stampPatience is how long a pod's creation waits for the first authority of
// its namespace, or one for more hosts; the API server waits 5 s for all of it.
const stampPatience = 2 * time.Second

// stamps are a namespace's Rulesets as pods begin with them.
type stamps struct {
	compiled *programming.Program
	// authorities that it was compiled with.
	authorities string
	rulesets    map[programming.Selection]*ruleset.Ruleset
}

// Stamped is the Ruleset that a pod with these labels begins with: the one that
// it will get here, without its Store. It is shared: only to be read. A program
// learns authorities only when it starts, so one that is missing is made before.
// When it cannot be had in time, the Ruleset has the authorities that there are,
// or none: what the pod cannot intercept then, its sidecar reports.
func (r *Rulesets) Stamped(ctx context.Context, namespace string, podLabels map[string]string, logger logr.Logger) (*ruleset.Ruleset, error) {
	p, err := r.program(ctx, namespace)
	if err != nil {
		return nil, err
	}
	domains := p.compiled.Intercepted()
	p.mu.Unlock()
	var authorities string
	if len(domains) > 0 {
		waiting, cancel := context.WithTimeout(ctx, stampPatience)
		defer cancel()
		if authorities, err = r.authorities.For(waiting, namespace, domains); err != nil {
			logger.Error(err, "a pod begins without an authority for all hosts to intercept", "namespace", namespace)
			authorities = r.authorities.Bundle(namespace)
		}
	}
	current := r.Settings()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stamps.compiled == nil || p.stamps.authorities != authorities {
		p.stamps = stamps{authorities: authorities, rulesets: map[programming.Selection]*ruleset.Ruleset{}}
		// Callers' names are for the link: what is stamped, whoever sees pods sees.
		nameless := slices.Clone(p.policies)
		for i := range nameless {
			nameless[i].Status.Grants, nameless[i].Status.Resets = nil, nil
		}
		p.stamps.compiled = programming.Prepare(namespace, nameless, programming.Settings{
			Link: current.Link, HostRoots: current.HostRoots, Authorities: authorities, Enforcers: coarse(p.enforcers, 1),
		})
	}
	selection := p.stamps.compiled.Select(podLabels)
	stamped := p.stamps.rulesets[selection]
	if stamped == nil {
		stamped = p.stamps.compiled.Ruleset(selection)
		p.stamps.rulesets[selection] = stamped
	}
	return stamped, nil
}
