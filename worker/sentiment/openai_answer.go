package sentiment

import (
	"encoding/json"
	"errors"
	"fmt"
)

// parseAnswer reads the scores of a completion. Nothing of it is believed that
// was not asked for: exactly count numbers, each in [-1, 1]. The errors repeat
// nothing of the answer, which may repeat the texts.
func parseAnswer(body []byte, count int) ([]float64, error) {
	var completion struct {
		Choices []struct {
			Message struct {
				Content string `json:"content"`
			} `json:"message"`
		} `json:"choices"`
	}
	if json.Unmarshal(body, &completion) != nil {
		return nil, errors.New("the answer is not a chat completion in JSON")
	}
	if len(completion.Choices) == 0 || completion.Choices[0].Message.Content == "" {
		return nil, errors.New("the answer has no message")
	}
	var message struct {
		Scores []*float64 `json:"scores"` // pointers: null is no 0
	}
	if json.Unmarshal([]byte(completion.Choices[0].Message.Content), &message) != nil {
		return nil, errors.New("the model's message is not a JSON object of scores")
	}
	if len(message.Scores) != count {
		return nil, fmt.Errorf("the model gave %d scores for %d texts", len(message.Scores), count)
	}
	scores := make([]float64, count)
	for i, score := range message.Scores {
		if score == nil || !(*score >= -1 && *score <= 1) {
			return nil, fmt.Errorf("the model's score %d of %d is not a number in [-1, 1]", i+1, count)
		}
		scores[i] = *score
	}
	return scores, nil
}
