// Package v1alpha1 holds the resources that platform engineers write.
//
// It imports nothing beyond apimachinery, so that whoever only reads or
// compiles policies (the demo, a plugin) links no client.
//
// +kubebuilder:object:generate=true
// +groupName=weir.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var (
	// GroupVersion is weir.dev/v1alpha1.
	GroupVersion = schema.GroupVersion{Group: "weir.dev", Version: "v1alpha1"}

	schemeBuilder = runtime.NewSchemeBuilder(addKnownTypes)

	// AddToScheme registers the types of this package with a scheme.
	AddToScheme = schemeBuilder.AddToScheme
)

func addKnownTypes(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion, &RateLimitPolicy{}, &RateLimitPolicyList{}, &PeriodicTask{}, &PeriodicTaskList{})
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}
