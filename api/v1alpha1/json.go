package v1alpha1

import (
	"encoding/json"
	"slices"
)

// JSON is any value of JSON, as it is written.
// +kubebuilder:validation:Type=""
// +kubebuilder:validation:XPreserveUnknownFields
type JSON struct {
	// raw is the value's text.
	Raw []byte `json:"-"`
}

// MarshalJSON is the value itself; null for none.
func (j JSON) MarshalJSON() ([]byte, error) {
	return json.RawMessage(j.Raw).MarshalJSON()
}

// UnmarshalJSON keeps the value's text.
func (j *JSON) UnmarshalJSON(text []byte) error {
	j.Raw = slices.Clone(text)
	return nil
}
