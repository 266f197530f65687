package controllers

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// scrapeTimeout bounds the reading of the cache for one scrape.
const scrapeTimeout = 2 * time.Second

// PolicyPods is a prometheus.Collector of what the statuses of policies say of
// their pods. It reads them when it is scraped, so it keeps nothing of policies
// that are gone, and every replica says the same.
type PolicyPods struct {
	reader client.Reader
	pods   *prometheus.Desc
}

// NewPolicyPods reads policies from a cache.
func NewPolicyPods(reader client.Reader) *PolicyPods {
	return &PolicyPods{reader: reader, pods: prometheus.NewDesc(
		"weir_operator_policy_pods",
		"Pods that a policy selects, those of them whose sidecar enforces it as it is now, and those whose sidecar has no answer from Redis (rounded up above 16).",
		[]string{"namespace", "policy", "state"}, nil,
	)}
}

// Describe is of prometheus.Collector.
func (p *PolicyPods) Describe(descriptions chan<- *prometheus.Desc) { descriptions <- p.pods }

// Collect is of prometheus.Collector. While the cache cannot be read yet there
// is nothing to say, and the other metrics are worth a scrape.
func (p *PolicyPods) Collect(metrics chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	policies := &v1alpha1.RateLimitPolicyList{}
	if err := p.reader.List(ctx, policies, client.UnsafeDisableDeepCopy); err != nil {
		return
	}
	for i := range policies.Items {
		policy := &policies.Items[i]
		counts := policy.Status.Pods
		if counts == nil {
			continue
		}
		for state, count := range map[string]int32{"selected": counts.Selected, "enforcing": counts.Enforcing, "degraded": counts.Degraded} {
			metrics <- prometheus.MustNewConstMetric(p.pods, prometheus.GaugeValue, float64(count), policy.Namespace, policy.Name, state)
		}
	}
}
