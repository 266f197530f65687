package integration

import (
	"io/fs"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/test/docs/pages"
)

// documented are the objects that a page shows, by where they are.
func documented(path string) map[string]*unstructured.Unstructured {
	GinkgoHelper()
	blocks, err := pages.Read(path)
	Expect(err).NotTo(HaveOccurred())
	// What a test sets up is applied by that test.
	var shown []pages.Block
	for _, b := range blocks {
		if !b.Setup {
			shown = append(shown, b)
		}
	}
	manifests, err := pages.Manifests(shown)
	Expect(err).NotTo(HaveOccurred())
	objects := map[string]*unstructured.Unstructured{}
	for _, b := range manifests {
		for document := range strings.SplitSeq(b.Text, "\n---\n") {
			object := &unstructured.Unstructured{}
			Expect(yaml.UnmarshalStrict([]byte(document), &object.Object)).To(Succeed(), b.String())
			objects[b.String()+" "+object.GetKind()+" "+object.GetName()] = object
		}
	}
	return objects
}

var _ = Describe("The documentation", func() {
	It("shows objects that the API server accepts as they are", func() {
		paths := []string{filepath.Join("..", "..", "README.md")}
		Expect(filepath.WalkDir(filepath.Join("..", "..", "docs"), func(path string, _ fs.DirEntry, err error) error {
			if filepath.Ext(path) == ".md" {
				paths = append(paths, path)
			}
			return err
		})).To(Succeed())
		namespace := newNamespace(nil)
		strict := client.WithFieldValidation(k8sClient, metav1.FieldValidationStrict)
		ours := 0
		for _, path := range paths {
			for where, object := range documented(path) {
				object.SetNamespace(namespace)
				Expect(strict.Create(ctx, object, client.DryRunAll)).To(Succeed(), where)
				if object.GroupVersionKind().Group == v1alpha1.GroupVersion.Group {
					ours++
				}
			}
		}
		Expect(ours).To(BeNumerically(">=", 10), "the pages' objects are found")
	})
})
