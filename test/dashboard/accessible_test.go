package dashboard

import (
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

// axe is axe-core's source.
var axe = sync.OnceValues(func() (string, error) {
	folder := root + "/bin/axe"
	command := exec.Command(root+"/hack/assets.sh", "axe", folderOf(folder))
	if output, err := command.CombinedOutput(); err != nil {
		return string(output), err
	}
	text, err := os.ReadFile(folder + "/axe.min.js")
	return string(text), err
})

// folderOf is for a script that runs in the repository's folder.
func folderOf(path string) string { return strings.TrimPrefix(path, root+"/") }

// accessible fails when axe-core finds something serious.
func (b *browser) accessible(t *testing.T, what string) {
	t.Helper()
	source, err := axe()
	if err != nil {
		t.Fatalf("getting axe-core: %v\n%s", err, source)
	}
	evaluate[int](b, source+"; 0")
	found := evaluate[[]string](b, `axe.run(document, {resultTypes: ["violations"]}).then(r => r.violations
	  .filter(v => v.impact === "serious" || v.impact === "critical")
	  .map(v => v.id + ": " + v.help + " at " + v.nodes.slice(0, 3).map(n => n.target + " (" + n.any.concat(n.all).map(c => c.message).join("; ") + ")").join(", ")))`)
	for _, violation := range found {
		t.Errorf("%s: %s", what, violation)
	}
}
