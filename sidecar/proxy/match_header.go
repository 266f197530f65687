package proxy

import (
	"errors"
	"fmt"
	"regexp"
	"slices"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// headerMatch is a compiled ruleset.HeaderMatch.
type headerMatch struct {
	name   string
	value  string
	regexp *regexp.Regexp // nil: the value itself
}

func compileHeaderMatch(m ruleset.HeaderMatch) (headerMatch, error) {
	if m.Name == "" {
		return headerMatch{}, errors.New("match header: it has no name")
	}
	compiled := headerMatch{name: m.Name, value: m.Value}
	switch m.Type {
	case ruleset.HeaderExact:
	case ruleset.HeaderRegularExpression:
		re, err := compileWhole(m.Value)
		if err != nil {
			return headerMatch{}, fmt.Errorf("match header %s: %w", m.Name, err)
		}
		compiled.regexp = re
	default:
		return headerMatch{}, fmt.Errorf("unknown header type %q", m.Type)
	}
	return compiled, nil
}

// compileWhole compiles an expression that matches whole texts only.
func compileWhole(expression string) (*regexp.Regexp, error) {
	return regexp.Compile(`\A(?:` + expression + `)\z`)
}

// holds reports whether any line of the header has the value.
func (m *headerMatch) holds(r *request) bool {
	if sameName(m.name, "Host") {
		return m.matches(r.host)
	}
	return slices.ContainsFunc(r.fields, func(f field) bool { return sameName(f.name, m.name) && m.matches(trimSpace(f.value)) })
}

func (m *headerMatch) matches(value string) bool {
	if m.regexp != nil {
		return m.regexp.MatchString(value)
	}
	return value == m.value
}
