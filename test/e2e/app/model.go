package main

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"
)

// model answers like an OpenAI-compatible endpoint whose model finds every text
// somewhat positive, and notes when each request came.
type model struct {
	mu       sync.Mutex
	arrivals []time.Time
}

// score is what it gives each text.
const score = 0.5

func (m *model) handle(mux *http.ServeMux) {
	mux.HandleFunc("POST /v1/chat/completions", m.complete)
	mux.HandleFunc("GET /arrivals", func(w http.ResponseWriter, _ *http.Request) {
		m.mu.Lock()
		defer m.mu.Unlock()
		_ = json.NewEncoder(w).Encode(m.arrivals)
	})
}

func (m *model) complete(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	m.arrivals = append(m.arrivals, time.Now())
	m.mu.Unlock()
	var request struct {
		Messages []struct{ Role, Content string }
	}
	var asked struct{ Texts []string }
	err := json.NewDecoder(r.Body).Decode(&request)
	if err == nil && len(request.Messages) > 0 {
		err = json.Unmarshal([]byte(request.Messages[len(request.Messages)-1].Content), &asked)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	scores := make([]float64, len(asked.Texts))
	for i := range scores {
		scores[i] = score
	}
	content, _ := json.Marshal(map[string]any{"scores": scores})
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"choices": []any{
		map[string]any{"message": map[string]any{"role": "assistant", "content": string(content)}},
	}})
}
