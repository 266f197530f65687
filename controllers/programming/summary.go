package programming

import (
	"fmt"
	"strings"
	"time"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// Summary says limits for people: "10/1s, 100/1m".
func Summary(limits []v1alpha1.Limit) string {
	parts := make([]string, len(limits))
	for i, limit := range limits {
		parts[i] = fmt.Sprintf("%d/%s", limit.Requests, Short(limit.Window.Duration))
	}
	return strings.Join(parts, ", ")
}

// Short is a duration without the units that are zero at its end: 1m, not 1m0s.
func Short(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
