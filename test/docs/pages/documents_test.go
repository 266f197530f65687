package pages

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../../.."

// documents are the repository's pages.
func documents(t *testing.T) []string {
	t.Helper()
	paths := []string{filepath.Join(root, "README.md"), filepath.Join(root, "charts/weir/README.md")}
	err := filepath.WalkDir(filepath.Join(root, "docs"), func(path string, _ fs.DirEntry, err error) error {
		if filepath.Ext(path) == ".md" {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil || len(paths) < 10 {
		t.Fatalf("looking for pages: %v, found %v", err, paths)
	}
	return paths
}

func TestPagesCanBeRead(t *testing.T) {
	t.Parallel()
	for _, path := range documents(t) {
		blocks, err := Read(path)
		if err != nil {
			t.Error(err)
		}
		for i := range blocks {
			if blocks[i].Language != "sh" {
				continue
			}
			check := exec.CommandContext(t.Context(), "bash", "-n")
			check.Stdin = strings.NewReader(blocks[i].Text)
			if output, err := check.CombinedOutput(); err != nil {
				t.Errorf("%s is no shell: %s", &blocks[i], output)
			}
		}
		if _, err := Manifests(blocks); err != nil {
			t.Error(err)
		}
	}
}

var (
	// link is one to a place of the repository.
	link = regexp.MustCompile(`\]\(([^)\s:]+)\)`)
	code = regexp.MustCompile("`[^`\n]*`")
)

func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	for _, path := range documents(t) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range link.FindAllStringSubmatch(code.ReplaceAllString(string(text), ""), -1) {
			file, anchor, _ := strings.Cut(match[1], "#")
			target := path
			if file != "" {
				target = filepath.Join(filepath.Dir(path), file)
			}
			content, err := os.ReadFile(target)
			if err != nil {
				if _, err = os.Stat(target); err != nil {
					t.Errorf("%s: link %s: %v", path, match[1], err)
				}
				continue
			}
			if anchor != "" && !anchors(string(content))[anchor] {
				t.Errorf("%s: link %s: no heading has that name", path, match[1])
			}
		}
	}
}

// outside are the characters that have no place in an anchor.
var outside = regexp.MustCompile(`[^\p{L}\p{N}\s_-]`)

// anchors of a page's headings, as GitHub makes them.
func anchors(text string) map[string]bool {
	found := map[string]bool{}
	for line := range strings.Lines(text) {
		if title, is := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); is && strings.HasPrefix(line, "#") {
			found[strings.ReplaceAll(outside.ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), ""), " ", "-")] = true
		}
	}
	return found
}

// TestEveryReasonIsExplained holds the guides against the code: who meets a
// reason of a condition or an event, or a value of Weir-Error, finds it in the
// documentation.
func TestEveryReasonIsExplained(t *testing.T) {
	t.Parallel()
	var all strings.Builder
	for _, path := range documents(t) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	constant := regexp.MustCompile(`(?m)^\s*(?:Reason|Event|event|error)[A-Z]\w*\s*=\s*"([\w-]+)"`)
	found := 0
	for _, folder := range []string{"api/v1alpha1", "controllers", "controllers/injection", "sidecar/proxy"} {
		sources, err := filepath.Glob(filepath.Join(root, folder, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, source := range sources {
			text, err := os.ReadFile(source)
			if err != nil {
				t.Fatal(err)
			}
			for _, match := range constant.FindAllStringSubmatch(string(text), -1) {
				found++
				if !strings.Contains(all.String(), "`"+match[1]) {
					t.Errorf("%s: no page explains %q", source, match[1])
				}
			}
		}
	}
	if found < 30 {
		t.Fatalf("found only %d reasons in the code", found)
	}
}
