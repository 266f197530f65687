package link

import (
	"context"
	"time"

	"github.com/go-logr/logr"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/programming"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// stampPatience is how long a pod's creation waits for the first authority of
// its namespace, or one for more hosts; the API server waits 5 s for all of it.
const stampPatience = 2 * time.Second

// Stamped is the Ruleset that a pod with these labels begins with: the one that
// it will get here, without its Store. A program learns authorities only when it
// starts, so one that is missing is made before. When it cannot be had in time,
// the Ruleset has the authorities that there are, or none: what the pod cannot
// intercept then, its sidecar reports.
func (r *Rulesets) Stamped(namespace string, policies []v1alpha1.RateLimitPolicy, podLabels map[string]string, logger logr.Logger) *ruleset.Ruleset {
	current := r.Settings()
	settings := programming.Settings{Link: current.Link, HostRoots: current.HostRoots}
	enforcers, err := r.enforcers(context.Background(), namespace, policies, 1)
	if err != nil { // until the link tells, each of its shares is the least
		logger.Error(err, "a pod begins without knowing how many share its limits", "namespace", namespace)
	}
	settings.Enforcers = enforcers
	if domains := programming.Intercepted(policies); len(domains) > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), stampPatience)
		defer cancel()
		bundle, err := r.authorities.For(ctx, namespace, domains)
		if err != nil {
			logger.Error(err, "a pod begins without an authority for all hosts to intercept", "namespace", namespace)
			bundle = r.authorities.Bundle(namespace)
		}
		settings.Authorities = bundle
	}
	return programming.Compile(namespace, policies, podLabels, settings)
}
