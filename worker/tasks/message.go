package tasks

import (
	"crypto/sha256"
	"encoding/json"
	"strings"
	"time"
)

// message of a chat.
type message struct {
	// key tells the message from others: by its id, or else by all it says.
	key     string
	role    string
	content string
	at      time.Time
}

// malformed names what is wrong with a record: a kind, for counting.
type malformed string

// Kinds of malformed records.
const (
	tooLarge     malformed = "too_large"
	notJSON      malformed = "not_json_object"
	badID        malformed = "bad_id"
	badRole      malformed = "bad_role"
	badContent   malformed = "bad_content"
	badTimestamp malformed = "bad_timestamp"
	inFuture     malformed = "in_future"
	noGenre      malformed = "no_genre"
)

// parseMessage reads {"id", "role", "content", "timestamp"}; id is a string or
// an integer, and may be absent. fault is empty for a good message.
func parseMessage(element string) (m message, fault malformed) {
	var record struct {
		ID        json.RawMessage `json:"id"`
		Role      *string         `json:"role"`
		Content   json.RawMessage `json:"content"`
		Timestamp json.RawMessage `json:"timestamp"`
	}
	if len(element) > maxElementBytes {
		return m, tooLarge
	}
	if !strings.HasPrefix(strings.TrimSpace(element), "{") || !json.Valid([]byte(element)) {
		return m, notJSON
	}
	if json.Unmarshal([]byte(element), &record) != nil || record.Role == nil {
		return m, badRole // the only field with a type of its own
	}
	var known bool
	if m.key, known = recordKey(record.ID, element); !known {
		return m, badID
	}
	m.role = strings.ToLower(strings.TrimSpace(*record.Role))
	var content *string
	if json.Unmarshal(record.Content, &content) != nil || content == nil {
		return m, badContent
	}
	m.content = *content
	if m.at, known = parseTimestamp(record.Timestamp); !known {
		return m, badTimestamp
	}
	return m, ""
}

// maxKeyBytes are kept of each record of a window; longer keys are hashed.
const maxKeyBytes = 64

// recordKey is the id, or without one the whole record: two that are the same to
// the letter, time included, are one that was written twice.
func recordKey(id json.RawMessage, element string) (key string, valid bool) {
	key = "record:" + element
	if len(id) > 0 && string(id) != "null" {
		var text identifier
		if text.UnmarshalJSON(id) != nil || text == "" {
			return "", false
		}
		key = "id:" + string(text)
	}
	if len(key) > maxKeyBytes {
		hash := sha256.Sum256([]byte(key))
		key = string(hash[:])
	}
	return key, true
}
