package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

// The README's table stands between these.
const (
	tableBegins = "<!-- values: generated from values.yaml by make generate -->\n"
	tableEnds   = "<!-- /values -->\n"
)

// readme is the chart's README with the table of its values as they are.
func readme(folder string) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(folder, "README.md"))
	if err != nil {
		return nil, err
	}
	before, rest, begins := strings.Cut(string(text), tableBegins)
	_, after, ends := strings.Cut(rest, tableEnds)
	if !begins || !ends {
		return nil, fmt.Errorf("%s/README.md lacks the lines %q and %q", folder, tableBegins, tableEnds)
	}
	values, err := os.ReadFile(filepath.Join(folder, "values.yaml"))
	if err != nil {
		return nil, err
	}
	table, err := valuesTable(values)
	if err != nil {
		return nil, fmt.Errorf("%s/values.yaml: %w", folder, err)
	}
	return []byte(before + tableBegins + table + tableEnds + after), nil
}

// valuesTable has a row for every value; a value without a comment is an error.
func valuesTable(text []byte) (string, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return "", err
	}
	table := &strings.Builder{}
	table.WriteString("| value | default | |\n|---|---|---|\n")
	err := rows(table, "", document.Content[0])
	return table.String(), err
}

// rows writes those of a mapping. A key with a comment is a value, whatever it
// holds; one without holds values.
func rows(table *strings.Builder, prefix string, mapping *yaml.Node) error {
	for i := 0; i < len(mapping.Content); i += 2 {
		key, value := mapping.Content[i], mapping.Content[i+1]
		path := prefix + key.Value
		if key.HeadComment == "" || prefix == "" {
			if value.Kind != yaml.MappingNode || len(value.Content) == 0 {
				return fmt.Errorf("line %d: %s has no comment that says what it is for", key.Line, path)
			}
			if err := rows(table, path+".", value); err != nil {
				return err
			}
			continue
		}
		standard, err := inline(value)
		if err != nil {
			return fmt.Errorf("line %d: %s: %w", key.Line, path, err)
		}
		comment := strings.Join(strings.Fields(strings.ReplaceAll(key.HeadComment, "#", "")), " ")
		fmt.Fprintf(table, "| `%s` | `%s` | %s |\n", path, standard, strings.ReplaceAll(comment, "|", `\|`))
	}
	return nil
}

// inline is a value as --set-json takes it.
func inline(value *yaml.Node) (string, error) {
	var decoded any
	if err := value.Decode(&decoded); err != nil {
		return "", err
	}
	text, err := json.Marshal(decoded)
	return string(text), err
}
