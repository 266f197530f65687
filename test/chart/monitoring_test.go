package chart

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

const alertsFile = chartFolder + "/files/alerts.yaml"

// alerts are the names of the chart's.
func alerts(t *testing.T) (names []string) {
	t.Helper()
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert       string            `json:"alert"`
				Expr        string            `json:"expr"`
				Annotations map[string]string `json:"annotations"`
			} `json:"rules"`
		} `json:"groups"`
	}
	read(t, "files/alerts.yaml", func(text []byte) error { return yaml.Unmarshal(text, &file) })
	for _, group := range file.Groups {
		for _, rule := range group.Rules {
			names = append(names, rule.Alert)
			if want := "RUNBOOKS#" + strings.ToLower(rule.Alert); rule.Annotations["runbook_url"] != want {
				t.Errorf("%s: want runbook_url %s, got %s", rule.Alert, want, rule.Annotations["runbook_url"])
			}
			known(t, rule.Alert, rule.Expr)
		}
	}
	return names
}

func TestAlertsComeWhenTheyShould(t *testing.T) {
	t.Parallel()
	for _, arguments := range [][]string{{"check", "rules", "--lint-fatal", alertsFile}, {"test", "rules", "testdata/alerts.yaml"}} {
		if _, err := try(t, "promtool", arguments...); err != nil {
			t.Error(err)
		}
	}
}

func TestEveryAlertHasARunbookAndATest(t *testing.T) {
	t.Parallel()
	runbooks, err := os.ReadFile(root + "/docs/runbooks.md")
	if err != nil {
		t.Fatal(err)
	}
	tests, err := os.ReadFile("testdata/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, alert := range alerts(t) {
		if !strings.Contains(string(runbooks), "\n## "+alert+"\n") {
			t.Errorf("docs/runbooks.md has no section %s", alert)
		}
		if !strings.Contains(string(tests), "  - eval_time") || !strings.Contains(string(tests), "alertname: "+alert+"\n    exp_alerts:\n    - ") {
			t.Errorf("testdata/alerts.yaml does not show when %s comes", alert)
		}
	}
}

func TestTheRenderedRuleHasTheAlerts(t *testing.T) {
	t.Parallel()
	rule := objects(t, render(t, everything()...))["PrometheusRule "+namespace+"/weir"]
	text := pretty(rule)
	for _, alert := range alerts(t) {
		if !strings.Contains(text, `"alert": "`+alert+`"`) {
			t.Errorf("the PrometheusRule lacks %s", alert)
		}
	}
	if strings.Contains(text, "RUNBOOKS") {
		t.Errorf("a runbook has no address:\n%s", text)
	}
}

func TestDashboardsShowMetricsThatThereAre(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(chartFolder + "/files/dashboards/*.json")
	if err != nil || len(files) != 4 {
		t.Fatalf("want dashboards of limits, sidecars, tasks and operator, got %v, %v", files, err)
	}
	rendered := objects(t, render(t, everything()...))
	rules := "groups:\n- name: dashboards\n  rules:\n"
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		shown, _, err := unstructured.NestedString(rendered["ConfigMap "+namespace+"/weir-dashboard-"+name].Object, "data", name+".json")
		if err != nil || shown != string(text) {
			t.Errorf("the ConfigMap of %s holds something else than the file", name)
		}
		var dashboard struct {
			UID    string `json:"uid"`
			Panels []struct {
				ID          int `json:"id"`
				Title       string
				Description string
				GridPos     struct{ X, W int }
				Targets     []struct{ Expr string }
			}
		}
		if err := json.Unmarshal(text, &dashboard); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if dashboard.UID != "weir-"+name {
			t.Errorf("%s: want uid weir-%s, got %s", name, name, dashboard.UID)
		}
		for _, panel := range dashboard.Panels {
			if panel.Description == "" || panel.GridPos.X+panel.GridPos.W > 24 || len(panel.Targets) == 0 {
				t.Errorf("%s: panel %q lacks a description, a place or a query", name, panel.Title)
			}
			for i, target := range panel.Targets {
				known(t, name+" "+panel.Title, target.Expr)
				expr := strings.NewReplacer("$__rate_interval", "5m", `"$`, `"`).Replace(target.Expr)
				rules += fmt.Sprintf("  - record: %s_%d_%d\n    expr: %q\n", name, panel.ID, i, expr)
			}
		}
	}
	path := filepath.Join(t.TempDir(), "dashboards.yaml")
	if err := os.WriteFile(path, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := try(t, "promtool", "check", "rules", path); err != nil {
		t.Errorf("a query is no PromQL: %v", err)
	}
}

var metricName = regexp.MustCompile(`\bweir_[a-z_]+`)

// known fails for metrics of ours that docs/operations.md does not have.
func known(t *testing.T, where, expr string) {
	t.Helper()
	operations, err := os.ReadFile(root + "/docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range metricName.FindAllString(expr, -1) {
		name = strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_count")
		if !strings.Contains(string(operations), "`"+name+"`") {
			t.Errorf("%s asks for %s, which docs/operations.md does not know", where, name)
		}
	}
}
