package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// resource is what the page shows of a CustomResourceDefinition.
type resource struct {
	Spec struct {
		Group string `json:"group"`
		Names struct {
			Kind       string   `json:"kind"`
			Plural     string   `json:"plural"`
			ShortNames []string `json:"shortNames"`
			Categories []string `json:"categories"`
		} `json:"names"`
		Scope    string `json:"scope"`
		Versions []struct {
			Name    string `json:"name"`
			Columns []struct {
				Name     string `json:"name"`
				JSONPath string `json:"jsonPath"`
				Priority int    `json:"priority"`
			} `json:"additionalPrinterColumns"`
			Schema struct {
				OpenAPI schema `json:"openAPIV3Schema"`
			} `json:"schema"`
		} `json:"versions"`
	} `json:"spec"`
}

// schema is what the page shows of a JSONSchemaProps.
type schema struct {
	Description          string            `json:"description"`
	Type                 string            `json:"type"`
	Format               string            `json:"format"`
	Default              json.RawMessage   `json:"default"`
	Enum                 []string          `json:"enum"`
	Minimum              *int64            `json:"minimum"`
	Maximum              *int64            `json:"maximum"`
	MinLength            *int64            `json:"minLength"`
	MaxLength            *int64            `json:"maxLength"`
	Pattern              string            `json:"pattern"`
	MinItems             *int64            `json:"minItems"`
	MaxItems             *int64            `json:"maxItems"`
	MinProperties        *int64            `json:"minProperties"`
	MaxProperties        *int64            `json:"maxProperties"`
	Required             []string          `json:"required"`
	Properties           map[string]schema `json:"properties"`
	AdditionalProperties *schema           `json:"additionalProperties"`
	Items                *schema           `json:"items"`
	ListType             string            `json:"x-kubernetes-list-type"`
	ListMapKeys          []string          `json:"x-kubernetes-list-map-keys"`
	AnyContent           bool              `json:"x-kubernetes-preserve-unknown-fields"`
	Rules                []struct {
		Rule    string `json:"rule"`
		Message string `json:"message"`
	} `json:"x-kubernetes-validations"`
}

// kind says what a value is, without its bounds: "list of string".
func (s *schema) kind() string {
	switch {
	case s.Items != nil && s.Items.kind() == "object":
		return "list of objects"
	case s.Items != nil:
		return "list of " + s.Items.kind()
	case s.AdditionalProperties != nil:
		return "map of " + s.AdditionalProperties.kind()
	case s.AnyContent && s.Type == "":
		return "any"
	case s.AnyContent:
		return s.Type + " of any content"
	case s.Format == "date-time":
		return "time"
	case strings.HasPrefix(s.Pattern, "^([0-9]+(h|m|s))+"):
		return "duration"
	default:
		return s.Type
	}
}

// bounds says in a few words what values are taken; empty: any.
func (s *schema) bounds() string {
	var parts []string
	add := func(text string) {
		if text != "" {
			parts = append(parts, text)
		}
	}
	if len(s.Enum) > 0 {
		add("`" + strings.Join(s.Enum, "`, `") + "`")
	}
	add(between(s.Minimum, s.Maximum, ""))
	add(between(s.MinItems, s.MaxItems, "entries"))
	add(between(s.MinProperties, s.MaxProperties, "fields"))
	if s.kind() != "duration" { // whose bounds are a rule
		add(between(s.MinLength, s.MaxLength, "characters"))
		if s.Pattern != "" {
			add(code(s.Pattern))
		}
	}
	switch s.ListType {
	case "set":
		add("no two alike")
	case "map":
		add("one for each " + strings.Join(s.ListMapKeys, ", "))
	}
	if s.Items != nil && len(s.Items.Properties) == 0 {
		if each := s.Items.bounds(); each != "" {
			add("each: " + each)
		}
	}
	return strings.Join(parts, "; ")
}

// between says a range; empty: none.
func between(least, most *int64, unit string) string {
	text := ""
	switch {
	case least != nil && most != nil && *least == *most:
		text = number(*least)
	case least != nil && most != nil:
		text = number(*least) + " to " + number(*most)
	case least != nil:
		text = "at least " + number(*least)
	case most != nil:
		text = "at most " + number(*most)
	default:
		return ""
	}
	return strings.TrimSuffix(text+" "+unit, " ")
}

// number groups thousands: 1,000,000.
func number(n int64) string {
	digits := strconv.FormatInt(n, 10)
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// preset is what a field has when it is absent.
func (s *schema) preset(required bool) string {
	switch {
	case s.Default != nil:
		return code(strings.Trim(string(s.Default), `"`))
	case required:
		return "required"
	default:
		return ""
	}
}

// code is a text as code in a table's cell.
func code(text string) string {
	fence := "`"
	if strings.Contains(text, "`") {
		fence = "``"
	}
	return fence + strings.ReplaceAll(text, "|", `\|`) + fence
}

// prose is a description as one line in a table's cell.
func prose(description string) string {
	text := strings.Join(strings.Fields(description), " ")
	return strings.NewReplacer("|", `\|`, "<", "&lt;", "*", `\*`).Replace(text)
}

// field is a row: a value and where it is.
type field struct {
	path     string
	required bool
	*schema
}

// ofKubernetes are the objects of Kubernetes' own, which its documentation has.
var ofKubernetes = []string{"spec.podSelector", "status.conditions"}

// fields are those of an object and below, in alphabetical order.
func fields(path string, s *schema) []field {
	if slices.Contains(ofKubernetes, path) {
		return nil
	}
	for s.Items != nil {
		path, s = path+"[]", s.Items
	}
	names := make([]string, 0, len(s.Properties))
	for name := range s.Properties {
		names = append(names, name)
	}
	slices.Sort(names)
	var all []field
	for _, name := range names {
		property := s.Properties[name]
		f := field{path: strings.TrimPrefix(path+"."+name, "."), required: slices.Contains(s.Required, name), schema: &property}
		all = append(append(all, f), fields(f.path, &property)...)
	}
	return all
}

// rules are the CEL rules of a value and of its entries.
func (f *field) rules() []string {
	var all []string
	for path, s := f.path, f.schema; s != nil; path, s = path+"[]", s.Items {
		for _, rule := range s.Rules {
			all = append(all, fmt.Sprintf("- `%s`: %s. %s", path, prose(rule.Message), "`` "+strings.Join(strings.Fields(rule.Rule), " ")+" ``"))
		}
	}
	return all
}
