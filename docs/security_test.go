// Package docs holds pages to what they say of the repository.
package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Each "cannot" of security.md names a test, and each test that it names is one.
func TestSecurityNamesItsTests(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("security.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := testSources(t)
	named := regexp.MustCompile("`(Test[A-Za-z0-9]+)`|\"([^\"]+)\"")
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		cannot := len(cells) > 3 && strings.TrimSpace(cells[1]) == "cannot"
		names := named.FindAllStringSubmatch(line, -1)
		if cannot && len(names) == 0 {
			t.Errorf("no test shows that somebody cannot %s", strings.TrimSpace(cells[2]))
		}
		for _, name := range names {
			is := strings.Contains(tests, "func "+name[1]+"(")
			if name[1] == "" { // a spec or a part of a test; in such a row only
				is = !cannot || strings.Contains(tests, `It("`+name[2]+`"`) || strings.Contains(tests, `t.Run("`+name[2]+`"`)
			}
			if !is {
				t.Errorf("security.md names the test %s%s, which there is not", name[1], name[2])
			}
		}
	}
}

// testSources are all tests of the repository.
func testSources(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && (entry.Name() == ".git" || entry.Name() == "bin") {
			return fs.SkipDir
		}
		if err != nil {
			return err
		}
		if strings.HasSuffix(path, "_test.go") {
			text, err := os.ReadFile(path)
			all.Write(text)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}
