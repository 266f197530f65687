package tasks

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/weir-dev/weir/worker/runner"
)

// identifier is a JSON string, or an integer as written: databases number users
// and messages, and Python passes the number.
type identifier string

func (i *identifier) UnmarshalJSON(data []byte) error {
	var text string
	if json.Unmarshal(data, &text) == nil {
		*i = identifier(text)
		return nil
	}
	if _, err := strconv.ParseInt(string(data), 10, 64); err != nil {
		return errors.New("must be a string or an integer")
	}
	*i = identifier(data)
	return nil
}

// maxUserIDBytes bounds a user's id, which becomes part of keys.
const maxUserIDBytes = 256

// checkUserID says what keeps an id from being a user's.
func checkUserID(id string) error {
	switch {
	case id == "":
		return errors.New("is empty")
	case len(id) > maxUserIDBytes:
		return fmt.Errorf("is longer than %d bytes", maxUserIDBytes)
	case !utf8.ValidString(id):
		return errors.New("is not valid UTF-8")
	case strings.ContainsFunc(id, unicode.IsControl):
		return errors.New("contains a control character")
	}
	return nil
}

// Bounds of a window.
const (
	minWindow     = time.Minute
	maxWindow     = 31 * 24 * time.Hour
	defaultWindow = "24h"
)

// parseWindow reads a Go duration, "24h" or "1h30m", or whole days, "7d".
func parseWindow(text string) (time.Duration, error) {
	window, err := time.ParseDuration(text)
	if days, is := strings.CutSuffix(text, "d"); is {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 8) // 255 days are beyond the bound, and no overflow
		window = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || window < minWindow || window > maxWindow {
		return 0, fmt.Errorf("%.40q must be a duration from 1m to 31d: write it as 24h, 90m or 7d", text)
	}
	return window, nil
}

// argumentError is how a call hears of a bad argument; a retry would meet it
// again.
func argumentError(call *runner.Call, name string, err error) error {
	return runner.Permanent(fmt.Errorf("%s(): argument %q: %w", call.Task, name, err))
}
