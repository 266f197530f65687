// Package monitoring pins the types of prometheus-operator, whose CRDs the
// chart's tests generate to check monitors and rules against.
package monitoring

import _ "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
