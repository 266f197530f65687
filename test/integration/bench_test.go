package integration

import (
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/bench/operator"
)

// TestBenchOfTheOperator keeps make bench PART=operator alive: a run with few
// pods, in which the operator is killed once.
func TestBenchOfTheOperator(t *testing.T) {
	assets, err := findBinaries(t.Output())
	if err != nil {
		t.Fatalf("building kube-apiserver and etcd: %v", err)
	}
	report, err := operator.Run(t.Context(), operator.Options{
		Root: filepath.Join("..", ".."), Assets: assets, Policies: 8, Pods: 20, Edits: 2, Rest: time.Second, Admissions: 10,
	}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if err := report.Table(t.Output()); err != nil {
		t.Fatal(err)
	}
	if len(report.Restart.Doubts) > 0 {
		t.Errorf("statuses flapped at the restart: %v", report.Restart.Doubts)
	}
	reviews := 0
	for _, phase := range report.Phases {
		reviews += phase.Calls["create tokenreviews"]
	}
	if reviews != 2*20 {
		t.Errorf("%d TokenReviews, want one of each of 20 pods before the restart and one after", reviews)
	}
}
