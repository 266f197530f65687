package operator

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
)

// calls counts what the operator asked of the API server, as the audit log
// says, by "verb resource"; watches count when they end.
type calls struct {
	path   string
	offset int64
	total  map[string]int
}

func newCalls(path string) *calls { return &calls{path: path, total: map[string]int{}} }

// since reads what was written since the last call.
func (c *calls) since() (map[string]int, error) {
	file, err := os.Open(c.path)
	if err != nil {
		return nil, fmt.Errorf("reading the API server's audit log: %w", err)
	}
	defer func() { _ = file.Close() }()
	if _, err := file.Seek(c.offset, io.SeekStart); err != nil {
		return nil, err
	}
	found := map[string]int{}
	reader := bufio.NewReaderSize(file, 1<<20)
	for {
		line, err := reader.ReadBytes('\n')
		if err == io.EOF { // half a line is read the next time
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		c.offset += int64(len(line))
		var event struct {
			Verb      string `json:"verb"`
			ObjectRef struct {
				Resource    string `json:"resource"`
				Subresource string `json:"subresource"`
			} `json:"objectRef"`
			RequestURI string `json:"requestURI"`
		}
		if err := json.Unmarshal(line, &event); err != nil {
			return nil, fmt.Errorf("reading the API server's audit log: %w", err)
		}
		resource := event.ObjectRef.Resource
		switch {
		case resource == "":
			resource = event.RequestURI
		case event.ObjectRef.Subresource != "":
			resource += "/" + event.ObjectRef.Subresource
		}
		found[event.Verb+" "+resource]++
	}
}
