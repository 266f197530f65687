package manifests

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	kjson "sigs.k8s.io/json"
)

// TemplateError is a worker.template that is no pod template.
type TemplateError struct{ problem string }

func (e *TemplateError) Error() string { return e.problem }

// decodeTemplate reads a pod template in which nothing is unknown. The CRD does
// not check it: its schema would be larger than all of ours, and would ask for
// fields that the template leaves to us.
func decodeTemplate(raw *runtime.RawExtension) (*corev1.PodTemplateSpec, error) {
	template := &corev1.PodTemplateSpec{}
	if raw == nil || len(raw.Raw) == 0 {
		return template, nil
	}
	unknown, err := kjson.UnmarshalStrict(raw.Raw, template)
	if err != nil {
		return nil, &TemplateError{strings.TrimPrefix(err.Error(), "json: ")}
	}
	if len(unknown) > 0 {
		return nil, &TemplateError{errors.Join(unknown...).Error()}
	}
	return template, nil
}

// mergeTemplate merges the task's template over ours, lists by their keys, as
// kubectl's strategic merge does.
func mergeTemplate(ours *corev1.PodTemplateSpec, raw *runtime.RawExtension) (*corev1.PodTemplateSpec, error) {
	if raw == nil || len(raw.Raw) == 0 {
		return ours, nil
	}
	base, err := json.Marshal(ours)
	if err != nil {
		return nil, fmt.Errorf("encoding the workers' pod template: %w", err)
	}
	text, err := strategicpatch.StrategicMergePatch(base, raw.Raw, corev1.PodTemplateSpec{})
	if err != nil {
		return nil, &TemplateError{err.Error()}
	}
	merged := &corev1.PodTemplateSpec{}
	if err := json.Unmarshal(text, merged); err != nil {
		return nil, &TemplateError{err.Error()}
	}
	if merged.Labels == nil {
		merged.Labels = map[string]string{}
	}
	if merged.Annotations == nil {
		merged.Annotations = map[string]string{}
	}
	return merged, nil
}
