// Package metricstable holds the metrics that a binary registers to the table of
// docs/operations.md.
package metricstable

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// Check fails with each difference between what the collector, a registry, has
// of weir_ metrics and the rows of the part (sidecar, worker, operator), labels
// included. What Go, the process and controller-runtime bring is not ours to
// list.
func Check(t testing.TB, part string, registered prometheus.Collector) {
	t.Helper()
	documented, ours := documented(t, part), described(t, registered)
	for name, labels := range ours {
		switch want, known := documented[name]; {
		case !known:
			t.Errorf("the %s registers %s, which is not in the table of docs/operations.md", part, name)
		case !slices.Equal(want, labels):
			t.Errorf("the %s's %s has the labels %q, in the table of docs/operations.md %q", part, name, labels, want)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(documented)) {
		if _, known := ours[name]; !known {
			t.Errorf("the table of docs/operations.md has %s, which the %s does not register", name, part)
		}
	}
}

// description is how a Desc prints itself, which is the only way to ask it.
var description = regexp.MustCompile(`^Desc\{fqName: "([^"]*)", help: ".*", constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)

// described are the labels of each metric, in order.
func described(t testing.TB, registered prometheus.Collector) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	descriptions := make(chan *prometheus.Desc)
	go func() { registered.Describe(descriptions); close(descriptions) }()
	for d := range descriptions {
		parts := description.FindStringSubmatch(d.String())
		if parts == nil {
			t.Fatalf("cannot read %s", d)
		}
		if !strings.HasPrefix(parts[1], "weir_") {
			continue
		}
		labels := []string{}
		for label := range strings.SplitSeq(parts[2]+","+parts[3], ",") {
			if name, _, _ := strings.Cut(label, "="); name != "" {
				labels = append(labels, name)
			}
		}
		slices.Sort(labels)
		found[parts[1]] = labels
	}
	if len(found) == 0 {
		t.Fatal("no weir_ metric is registered")
	}
	return found
}

var quoted = regexp.MustCompile("`([^`]*)`")

// documented are the rows of a part: | where | metrics | labels | remarks |.
func documented(t testing.TB, part string) map[string][]string {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	text, err := os.ReadFile(filepath.Join(filepath.Dir(here), "..", "..", "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## Metrics\n")
	if !ok {
		t.Fatal("docs/operations.md has no section Metrics")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	found, current := map[string][]string{}, ""
	for line := range strings.Lines(section) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 4 || strings.HasPrefix(strings.TrimSpace(cells[0]), "-") {
			continue
		}
		if where := strings.TrimSpace(cells[0]); where != "" {
			current, _, _ = strings.Cut(where, " ")
		}
		if current != part {
			continue
		}
		labels := names(cells[2])
		slices.Sort(labels)
		for _, name := range names(cells[1]) {
			if _, twice := found[name]; twice {
				t.Errorf("docs/operations.md has %s twice", name)
			}
			found[name] = labels
		}
	}
	if len(found) == 0 {
		t.Fatalf("the table of docs/operations.md has no row of the %s", part)
	}
	return found
}

func names(cell string) []string {
	found := []string{}
	for _, match := range quoted.FindAllStringSubmatch(cell, -1) {
		found = append(found, match[1])
	}
	return found
}
