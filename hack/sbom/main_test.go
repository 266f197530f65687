package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdxlib"
)

// describeMyself writes the document of an image with this test's own binary, whose
// modules are known, and reads it back with SPDX's reader.
func describeMyself(t *testing.T) (*spdx.Document, []byte) {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(text, []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	output := filepath.Join(t.TempDir(), "image.spdx.json")
	err = write(options{
		name: "weir-sidecar", version: "1.2.3", output: output, created: time.Unix(1_700_000_000, 0).UTC(),
		files: []source{{binary, "/sidecar"}, {text, "/etc/ca.crt"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(output)
	if err != nil {
		t.Fatal(err)
	}
	document, err := json.Read(bytes.NewReader(content))
	if err != nil {
		t.Fatalf("SPDX's reader refuses it: %v", err)
	}
	return document, content
}

func TestDocumentIsValid(t *testing.T) {
	t.Parallel()
	document, _ := describeMyself(t)
	if err := spdxlib.ValidateDocument(document); err != nil {
		t.Error(err)
	}
	if described, err := spdxlib.GetDescribedPackageIDs(document); err != nil || !slices.Equal(described, []common.ElementID{image}) {
		t.Errorf("it describes %v (%v), want the image", described, err)
	}
	if got := document.CreationInfo.Created; got != "2023-11-14T22:13:20Z" {
		t.Errorf("made at %s, want what was said", got)
	}
}

func TestDocumentListsFilesAndModules(t *testing.T) {
	t.Parallel()
	document, _ := describeMyself(t)
	checksums := map[string]string{}
	for _, file := range document.Files {
		for _, checksum := range file.Checksums {
			checksums[file.FileName+" "+string(checksum.Algorithm)] = checksum.Value
		}
	}
	// FIPS 180's example.
	if got := checksums["./etc/ca.crt SHA256"]; got != "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" {
		t.Errorf("SHA-256 of abc is %q", got)
	}
	if checksums["./sidecar SHA1"] == "" {
		t.Error("the binary is not listed")
	}
	purls := map[string]bool{}
	for _, one := range document.Packages {
		for _, reference := range one.PackageExternalReferences {
			purl, _, _ := strings.Cut(reference.Locator, "@")
			purls[purl] = true
		}
	}
	for _, want := range []string{"pkg:golang/stdlib", "pkg:golang/github.com/spdx/tools-golang"} {
		if !purls[want] {
			t.Errorf("no package %s in %v", want, purls)
		}
	}
}

func TestSameFilesMakeTheSameDocument(t *testing.T) {
	t.Parallel()
	_, first := describeMyself(t)
	_, second := describeMyself(t)
	if !bytes.Equal(first, second) {
		t.Error("two documents of the same files differ")
	}
}
