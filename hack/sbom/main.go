// Command sbom writes what a container image consists of as an SPDX 2.3
// document: its files, and the Go modules that its binaries say they were built
// from. The same files make the same document.
//
// usage: sbom -name NAME -version VERSION [-created SECONDS] -output FILE.spdx.json SOURCE=/PATH …
package main

import (
	"cmp"
	"crypto/sha1" // SPDX wants it of every file
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	spdx "github.com/spdx/tools-golang/spdx/v2/v2_3"
	"github.com/spdx/tools-golang/utils"
)

const (
	// unknown is SPDX's word for it.
	unknown = "NOASSERTION"
	licence = "Apache-2.0"
	// namespaces of the documents, which need not exist as pages.
	namespaces = "https://weir.dev/spdx/"
	// image is the identifier of what a document describes.
	image = common.ElementID("Image")
)

// options of one document.
type options struct {
	name, version, output string
	created               time.Time
	files                 []source
}

// source is a file of this machine and its place in the image.
type source struct{ path, target string }

func main() {
	opts, err := parse(os.Args[1:])
	if err == nil {
		err = write(opts)
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "sbom: %v\n", err)
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	var opts options
	flags := flag.NewFlagSet("sbom", flag.ContinueOnError)
	flags.StringVar(&opts.name, "name", "", "name of the image")
	flags.StringVar(&opts.version, "version", "", "version of the image")
	flags.StringVar(&opts.output, "output", "", "file to write")
	created := flags.Int64("created", 0, "when the document was made, in seconds since 1970")
	if err := flags.Parse(args); err != nil {
		return opts, err
	}
	opts.created = time.Unix(*created, 0).UTC()
	for _, arg := range flags.Args() {
		from, target, found := strings.Cut(arg, "=")
		if !found || !path.IsAbs(target) {
			return opts, fmt.Errorf("file %q: write SOURCE=/PATH", arg)
		}
		opts.files = append(opts.files, source{from, path.Clean(target)})
	}
	if opts.name == "" || opts.version == "" || opts.output == "" || len(opts.files) == 0 {
		return opts, errors.New("-name, -version, -output and at least one SOURCE=/PATH are required")
	}
	return opts, nil
}

func write(opts options) error {
	document, err := describe(opts)
	if err != nil {
		return err
	}
	file, err := os.Create(opts.output)
	if err != nil {
		return err
	}
	return errors.Join(json.Write(document, file, json.Indent("  ")), file.Close())
}

// describe makes the document.
func describe(opts options) (*spdx.Document, error) {
	document := &spdx.Document{
		SPDXVersion: spdx.Version, DataLicense: spdx.DataLicense, SPDXIdentifier: "DOCUMENT",
		DocumentName: opts.name + "-" + opts.version,
		CreationInfo: &spdx.CreationInfo{
			Created:  opts.created.Format(time.RFC3339),
			Creators: []common.Creator{{CreatorType: "Tool", Creator: "weir-hack-sbom"}},
		},
		Packages: []*spdx.Package{{
			PackageName: opts.name, PackageSPDXIdentifier: image, PackageVersion: opts.version,
			PackageDownloadLocation: unknown, FilesAnalyzed: true, PrimaryPackagePurpose: "CONTAINER",
			PackageLicenseConcluded: unknown, PackageLicenseDeclared: licence, PackageCopyrightText: unknown,
			PackageLicenseInfoFromFiles: []string{unknown},
		}},
	}
	relate(document, "DOCUMENT", common.TypeRelationshipDescribe, image)
	for i, source := range opts.files {
		if err := addFile(document, source, common.ElementID(fmt.Sprintf("File-%d", i))); err != nil {
			return nil, fmt.Errorf("%s: %w", source.path, err)
		}
	}
	code, err := utils.GetVerificationCode(document.Files, "")
	if err != nil {
		return nil, err
	}
	document.Packages[0].PackageVerificationCode = &code
	// A namespace is of one document: what differs has another.
	document.DocumentNamespace = namespaces + document.DocumentName + "-" + code.Value
	return document, nil
}

// addFile adds a file of the image and, of a Go binary, its modules.
func addFile(document *spdx.Document, source source, id common.ElementID) error {
	content, err := os.ReadFile(source.path)
	if err != nil {
		return err
	}
	first, second := sha1.Sum(content), sha256.Sum256(content)
	file := &spdx.File{
		FileName: "." + source.target, FileSPDXIdentifier: id, FileTypes: []string{"TEXT"},
		Checksums: []common.Checksum{
			{Algorithm: common.SHA1, Value: hex.EncodeToString(first[:])},
			{Algorithm: common.SHA256, Value: hex.EncodeToString(second[:])},
		},
		LicenseConcluded: unknown, LicenseInfoInFiles: []string{unknown}, FileCopyrightText: unknown,
	}
	document.Files = append(document.Files, file)
	relate(document, image, common.TypeRelationshipContains, id)
	info, err := buildinfo.ReadFile(source.path)
	if err != nil {
		return nil // no Go binary
	}
	file.FileTypes = []string{"BINARY"}
	for _, module := range modules(info) {
		one := modulePackage(module)
		if !slices.ContainsFunc(document.Packages, func(p *spdx.Package) bool { return p.PackageSPDXIdentifier == one.PackageSPDXIdentifier }) {
			document.Packages = append(document.Packages, one)
		}
		relate(document, id, common.TypeRelationshipDependsOn, one.PackageSPDXIdentifier)
	}
	return nil
}

// modules that a binary was built from, the standard library among them, but
// not its own.
func modules(info *buildinfo.BuildInfo) []*debug.Module {
	found := []*debug.Module{{Path: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go")}}
	for _, module := range info.Deps {
		found = append(found, cmp.Or(module.Replace, module))
	}
	return found
}

func modulePackage(module *debug.Module) *spdx.Package {
	return &spdx.Package{
		PackageName: module.Path, PackageVersion: module.Version,
		PackageSPDXIdentifier:   common.ElementID("Module-" + identifier(module.Path+"-"+module.Version)),
		PackageDownloadLocation: unknown, PrimaryPackagePurpose: "LIBRARY",
		PackageLicenseConcluded: unknown, PackageLicenseDeclared: unknown, PackageCopyrightText: unknown,
		PackageExternalReferences: []*spdx.PackageExternalReference{{
			Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL,
			Locator: "pkg:golang/" + strings.ReplaceAll(module.Path+"@"+module.Version, "+", "%2B"),
		}},
	}
}

// identifier has only what SPDX allows in one: letters, digits, . and -.
func identifier(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '.' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '-'
	}, text)
}

func relate(document *spdx.Document, from common.ElementID, how string, to common.ElementID) {
	document.Relationships = append(document.Relationships, &spdx.Relationship{
		RefA: common.MakeDocElementID("", string(from)), Relationship: how, RefB: common.MakeDocElementID("", string(to)),
	})
}
