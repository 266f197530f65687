package chart

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	released = "v1.2.3"
	prefix   = "registry.example/weir/"
)

func TestDistWritesARelease(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "dist")
	if _, err := try(t, "make", "-C", root, "dist", "DIST="+folder,
		"TAG="+released, "VERSION="+released, "IMAGE_PREFIX="+prefix, "ARCH="+runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	install := text(t, folder, "install.yaml")

	t.Run("checksums name every file", func(t *testing.T) {
		got := map[string]string{}
		for line := range strings.Lines(text(t, folder, "SHA256SUMS")) {
			sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
			got[name] = sum
		}
		want := map[string]string{}
		for _, name := range []string{
			"install.yaml", "weir-1.2.3.tgz", "weir-operator.spdx.json", "weir-sidecar.spdx.json", "weir-worker.spdx.json",
		} {
			want[name] = sha256Of(t, filepath.Join(folder, name))
		}
		if difference := cmp.Diff(want, got); difference != "" {
			t.Errorf("SHA256SUMS (-files +said):\n%s", difference)
		}
		entries, err := os.ReadDir(folder)
		if err != nil || len(entries) != len(want)+1 {
			t.Errorf("the folder has %d files (%v), want those and SHA256SUMS", len(entries), err)
		}
	})
	t.Run("install.yaml names the release's images", func(t *testing.T) {
		for _, image := range []string{"operator", "sidecar", "worker"} {
			if !strings.Contains(install, ": "+prefix+"weir-"+image+":"+released+"\n") {
				t.Errorf("weir-%s is not named", image)
			}
			if strings.Contains(install, "weir-"+image+":dev") {
				t.Errorf("weir-%s:dev is left", image)
			}
		}
	})
	t.Run("the packaged chart makes install.yaml's objects", func(t *testing.T) {
		chart := filepath.Join(folder, "weir-1.2.3.tgz")
		if output, err := try(t, tool(t, "helm"), "lint", "--strict", "--set", trial, chart); err != nil {
			t.Errorf("%v\n%s", err, output)
		}
		rendered, err := try(t, tool(t, "helm"), "template", "weir", chart, "--namespace", namespace, "--set", trial)
		if err != nil {
			t.Fatal(err)
		}
		sameObjects(t, objects(t, install), objects(t, rendered))
	})
	for _, image := range []string{"operator", "sidecar", "worker"} {
		t.Run("the SBOM of "+image+" is of its binary", func(t *testing.T) {
			binary := filepath.Join(root, "bin", "linux_"+runtime.GOARCH, image)
			checkSBOM(t, text(t, folder, "weir-"+image+".spdx.json"), "./"+image, binary)
		})
	}
}

// checkSBOM holds a document to a binary's checksum and modules. That it is
// valid SPDX is shown by hack/sbom's own tests.
func checkSBOM(t *testing.T, sbom, name, binary string) {
	t.Helper()
	var document struct {
		SPDXVersion string `json:"spdxVersion"`
		Packages    []struct{ Name, VersionInfo string }
		Files       []struct {
			FileName  string
			Checksums []struct{ Algorithm, ChecksumValue string }
		}
	}
	if err := json.Unmarshal([]byte(sbom), &document); err != nil || document.SPDXVersion != "SPDX-2.3" {
		t.Fatalf("SPDX version %q, %v", document.SPDXVersion, err)
	}
	sums := map[string]string{}
	for _, file := range document.Files {
		for _, sum := range file.Checksums {
			sums[file.FileName+" "+sum.Algorithm] = sum.ChecksumValue
		}
	}
	if got, want := sums[name+" SHA256"], sha256Of(t, binary); got != want {
		t.Errorf("%s has SHA-256 %q, want %s", name, got, want)
	}
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"stdlib " + strings.TrimPrefix(info.GoVersion, "go")}
	for _, module := range info.Deps {
		want = append(want, module.Path+" "+module.Version)
	}
	var got []string
	for _, one := range document.Packages[1:] {
		got = append(got, one.Name+" "+one.VersionInfo)
	}
	slices.Sort(want)
	slices.Sort(got)
	if difference := cmp.Diff(want, got); difference != "" {
		t.Errorf("modules (-binary +document):\n%s", difference)
	}
}

func TestDistRefuses(t *testing.T) {
	t.Parallel()
	occupied := t.TempDir()
	kept := filepath.Join(occupied, "kept")
	if err := os.WriteFile(kept, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for reason, c := range map[string]struct{ tag, prefix, folder, says string }{
		"somebody else's folder":      {released, prefix, occupied, "not of make dist"},
		"a tag that is none":          {"a|b", prefix, t.TempDir(), "no tag of an image"},
		"a prefix that is no folder":  {released, "registry.example", t.TempDir(), "does not end in /"},
		"a prefix that is no address": {released, "a|b/", t.TempDir(), "no host and path"},
	} {
		t.Run(reason, func(t *testing.T) {
			t.Parallel()
			_, err := try(t, "env", "TAG="+c.tag, "IMAGE_PREFIX="+c.prefix, "VERSION="+released,
				root+"/hack/dist.sh", filepath.Dir(tool(t, "helm")), t.TempDir(), c.folder)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("want it refused with %q, got %v", c.says, err)
			}
		})
	}
	t.Cleanup(func() {
		if _, err := os.Stat(kept); err != nil {
			t.Errorf("a refused folder was touched: %v", err)
		}
	})
}

func text(t *testing.T, folder, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(folder, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func sha256Of(t *testing.T, path string) string {
	t.Helper()
	return fmt.Sprintf("%x", sha256.Sum256([]byte(text(t, filepath.Dir(path), filepath.Base(path)))))
}
