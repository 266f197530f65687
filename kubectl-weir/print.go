package main

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/yaml"

	"github.com/weir-dev/weir/controllers/programming"
	"github.com/weir-dev/weir/controllers/usage"
)

// print writes a value for machines where -o says so, and else for people.
func (p *plugin) print(value any, people func(*table)) error {
	switch p.flags.output {
	case "json":
		encoder := json.NewEncoder(p.out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(value)
	case "yaml":
		text, err := yaml.Marshal(value)
		if err != nil {
			return err
		}
		_, err = p.out.Write(text)
		return err
	}
	t := &table{w: tabwriter.NewWriter(p.out, 0, 0, 3, ' ', 0)}
	people(t)
	return t.w.Flush()
}

// table of rows, and of sentences between them.
type table struct{ w *tabwriter.Writer }

func (t *table) row(cells ...string) {
	for i := range cells {
		cells[i] = visible(cells[i])
	}
	fmt.Fprintln(t.w, strings.Join(cells, "\t"))
}

// say ends the table before it.
func (t *table) say(format string, args ...any) {
	_ = t.w.Flush() // the last Flush says what is wrong
	for i := range args {
		if text, ok := args[i].(string); ok {
			args[i] = visible(text)
		}
	}
	fmt.Fprintf(t.w, format+"\n", args...)
}

// visible is a text of whoever wrote an object, with what a terminal would obey, or
// not show, written as in Go.
func visible(text string) string {
	var plain strings.Builder
	for _, letter := range text {
		if unicode.IsPrint(letter) {
			plain.WriteRune(letter)
			continue
		}
		quoted := strconv.QuoteRuneToASCII(letter)
		plain.WriteString(quoted[1 : len(quoted)-1])
	}
	return plain.String()
}

// shown is a caller's name as a terminal may be told: what is not plain to see is
// written as in Go.
func shown(name string) string {
	if name == "" {
		return "(unnamed)"
	}
	for _, letter := range name {
		if !unicode.IsPrint(letter) || letter == unicode.ReplacementChar {
			return strconv.QuoteToASCII(name)
		}
	}
	if strings.ContainsAny(name[:1], `("`) || strings.TrimSpace(name) != name {
		return strconv.QuoteToASCII(name)
	}
	return name
}

func named(n usage.Name) string {
	if n.Identity != nil {
		return shown(*n.Identity)
	}
	return n.Pseudonym
}

// span is a time as people say it: 12s, 1m30s, 2h.
func span(seconds float64) string {
	d := time.Duration(math.Ceil(seconds*10) / 10 * float64(time.Second)).Round(100 * time.Millisecond)
	if d >= 10*time.Second {
		d = d.Round(time.Second)
	}
	return programming.Short(d)
}

func rate(perSecond float64) string { return strconv.FormatFloat(perSecond, 'f', 1, 64) }

func count(n int64) string { return strconv.FormatInt(n, 10) }

// ago is how long ago a time was, or is to come.
func (p *plugin) ago(at *metav1.Time) string {
	switch {
	case at == nil || at.IsZero():
		return "-"
	case at.After(p.now()):
		return "in " + duration.HumanDuration(at.Sub(p.now()))
	}
	return duration.HumanDuration(p.now().Sub(at.Time)) + " ago"
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func yesNo(is bool) string {
	if is {
		return "yes"
	}
	return "no"
}
