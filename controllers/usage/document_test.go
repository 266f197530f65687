package usage

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// described is the part of an OpenAPI document that the tests look at.
type described struct {
	OpenAPI    string                          `json:"openapi"`
	Paths      map[string]map[string]operation `json:"paths"`
	Components struct {
		Schemas    map[string]shape     `json:"schemas"`
		Parameters map[string]parameter `json:"parameters"`
	} `json:"components"`
}

type operation struct {
	Description string             `json:"description"`
	Parameters  []parameter        `json:"parameters"`
	RequestBody content            `json:"requestBody"`
	Responses   map[string]content `json:"responses"`
}

type content struct {
	Ref     string `json:"$ref"`
	Content map[string]struct {
		Schema shape `json:"schema"`
	} `json:"content"`
}

type parameter struct {
	Ref  string `json:"$ref"`
	Name string `json:"name"`
	In   string `json:"in"`
}

type shape struct {
	Ref         string           `json:"$ref"`
	Type        string           `json:"type"`
	Format      string           `json:"format"`
	Description string           `json:"description"`
	Properties  map[string]shape `json:"properties"`
	Required    []string         `json:"required"`
	Items       *shape           `json:"items"`
}

func readDocument(t *testing.T) described {
	t.Helper()
	answer := httptest.NewRecorder()
	New(Options{}).ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, documentPath, nil))
	var doc described
	if err := json.Unmarshal(answer.Body.Bytes(), &doc); err != nil || answer.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("%s is served as %v: %v", documentPath, answer.Header(), err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1.") {
		t.Errorf("it is of OpenAPI %q", doc.OpenAPI)
	}
	return doc
}

func (s shape) name() string {
	name, _ := strings.CutPrefix(s.Ref, "#/components/schemas/")
	return name
}

// bodies are what each operation takes and answers.
var bodies = map[string][2]any{
	"GET " + policiesPath:                        {nil, Policies{}},
	"GET " + policyPath:                          {nil, Policy{}},
	"GET " + policyPath + "/pods":                {nil, Pods{}},
	"GET " + policyPath + "/usage":               {nil, Usage{}},
	"GET " + policyPath + "/callers":             {nil, Callers{}},
	"GET " + policyPath + "/window":              {nil, CallerWindow{}},
	"GET " + policyPath + "/callers/{pseudonym}": {nil, CallerWindow{}},
	"GET " + policyPath + "/refusals":            {nil, Refusals{}},
	"POST " + policyPath + "/resets":             {Caller{}, Usage{}},
	"GET " + policyPath + "/grants":              {nil, Grants{}},
	"POST " + policyPath + "/grants":             {GrantRequest{}, Grant{}},
	"DELETE " + policyPath + "/grants":           {nil, Grants{}},
}

var inBraces = regexp.MustCompile(`\{(\w+)\}`)

// Every path and method is described with its rights, and none that is not.
func TestDocumentDescribesTheRoutes(t *testing.T) {
	t.Parallel()
	doc := readDocument(t)
	delete(doc.Paths, documentPath)
	for _, r := range routes {
		name := r.method + " " + r.path
		described, ok := doc.Paths[r.path][strings.ToLower(r.method)]
		if !ok {
			t.Errorf("%s is not described", name)
			continue
		}
		delete(doc.Paths[r.path], strings.ToLower(r.method))
		if right := r.verb + " on " + (attempt{subresource: r.subresource}).resource(); !regexp.MustCompile(regexp.QuoteMeta(right) + `[.,;]`).MatchString(described.Description) {
			t.Errorf("%s needs %s, and is described as: %s", name, right, described.Description)
		}
		var inPath []string
		for _, p := range described.Parameters {
			if of, shared := strings.CutPrefix(p.Ref, "#/components/parameters/"); shared {
				p = doc.Components.Parameters[of]
			}
			if p.In == "path" {
				inPath = append(inPath, p.Name)
			}
		}
		var want []string
		for _, found := range inBraces.FindAllStringSubmatch(r.path, -1) {
			want = append(want, found[1])
		}
		if !slices.Equal(inPath, want) {
			t.Errorf("%s has the parameters %q, is described with %q", name, want, inPath)
		}
		if described.Responses["default"].Ref != "#/components/responses/Problem" {
			t.Errorf("%s has no problems", name)
		}
		types, ok := bodies[name]
		if !ok {
			t.Errorf("the test does not know what %s answers", name)
			continue
		}
		for i, of := range []content{described.RequestBody, described.Responses["200"]} {
			want := ""
			if types[i] != nil {
				want = reflect.TypeOf(types[i]).Name()
			}
			if got := of.Content["application/json"].Schema.name(); got != want {
				t.Errorf("%s has the body %q, want %q", name, got, want)
			}
		}
	}
	for path, left := range doc.Paths {
		for method := range left {
			t.Errorf("%s %s is described, and not answered", method, path)
		}
	}
}

// Every shape is a type, with the same fields.
func TestDocumentDescribesTheTypes(t *testing.T) {
	t.Parallel()
	schemas := readDocument(t).Components.Schemas
	seen := map[string]bool{}
	var hold func(of reflect.Type)
	hold = func(of reflect.Type) {
		if seen[of.Name()] {
			return
		}
		seen[of.Name()] = true
		is, ok := schemas[of.Name()]
		if !ok {
			t.Errorf("%s is not described", of.Name())
			return
		}
		fields, required := fieldsOf(of)
		slices.Sort(is.Required)
		if !slices.Equal(is.Required, required) {
			t.Errorf("of %s %q are required, are described to be %q", of.Name(), required, is.Required)
		}
		for name, field := range fields {
			property, ok := is.Properties[name]
			if want, inner := kindOf(field); !ok || property.kind() != want {
				t.Errorf("%s.%s is %s, is described as %q", of.Name(), name, want, property.kind())
			} else if inner != nil {
				hold(inner)
			}
			if property.Description == "" && property.Ref == "" {
				t.Errorf("%s.%s has no description", of.Name(), name)
			}
		}
		for name := range is.Properties {
			if fields[name] == nil {
				t.Errorf("%s has no field %s, which is described", of.Name(), name)
			}
		}
	}
	for _, types := range bodies {
		for _, body := range types {
			if body != nil {
				hold(reflect.TypeOf(body))
			}
		}
	}
	hold(reflect.TypeFor[Problem]())
	for name := range schemas {
		if !seen[name] {
			t.Errorf("%s is described, and nothing is one", name)
		}
	}
}

// fieldsOf a type by their names in JSON, and those that are always there.
func fieldsOf(of reflect.Type) (map[string]reflect.Type, []string) {
	fields, required := map[string]reflect.Type{}, []string(nil)
	for field := range of.Fields() {
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		if field.Anonymous {
			more, always := fieldsOf(field.Type)
			maps.Copy(fields, more)
			required = append(required, always...)
			continue
		}
		fields[name] = field.Type
		if options != "omitempty" {
			required = append(required, name)
		}
	}
	slices.Sort(required)
	return fields, required
}

// kindOf a field in OpenAPI's words, and the type of ours that it holds, if any.
func kindOf(of reflect.Type) (string, reflect.Type) {
	if of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	switch of {
	case reflect.TypeFor[metav1.Time](), reflect.TypeFor[time.Time]():
		return "string date-time", nil
	case reflect.TypeFor[metav1.Duration]():
		return "string", nil
	}
	switch of.Kind() {
	case reflect.Bool:
		return "boolean", nil
	case reflect.String:
		return "string", nil
	case reflect.Int, reflect.Int32:
		return "integer int32", nil
	case reflect.Int64:
		return "integer int64", nil
	case reflect.Float64:
		return "number", nil
	case reflect.Slice:
		kind, inner := kindOf(of.Elem())
		return "array of " + kind, inner
	default:
		return of.Name(), of
	}
}

func (s shape) kind() string {
	switch {
	case s.Ref != "":
		return s.name()
	case s.Items != nil:
		return "array of " + s.Items.kind()
	case s.Format != "":
		return s.Type + " " + s.Format
	}
	return s.Type
}
