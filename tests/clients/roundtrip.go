// What the RoundTripper of proxq's own Go client for OpenAI does, on net/http, against a proxied fake of OpenAI:
// any answer with X-Proxq-Source to a submission is a job, which is polled; any other is the answer.
//
//	go run roundtrip.go http://127.0.0.1:8080
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

type roundTripper struct {
	base string
}

func (r roundTripper) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil || response.Header.Get("X-Proxq-Source") == "" {
		return response, err
	}
	var accepted struct {
		JobID string `json:"jobId"`
	}
	if err := decode(response, &accepted); err != nil {
		return nil, err
	}
	job := r.base + "/__jobs/" + accepted.JobID
	for {
		var status struct {
			Status, Error string
		}
		asked, err := http.Get(job)
		if err != nil {
			return nil, err
		}
		if err := decode(asked, &status); err != nil {
			return nil, err
		}
		switch status.Status {
		case "completed":
			return http.Get(job + "/content")
		case "failed":
			return nil, fmt.Errorf("job failed: %s", status.Error)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func decode(response *http.Response, into any) error {
	defer response.Body.Close()
	return json.NewDecoder(response.Body).Decode(into)
}

func main() {
	base := os.Args[1]
	client := &http.Client{Transport: roundTripper{base}}
	said := map[string][]any{}
	for _, text := range []string{"hello", "gzip", "429", "stream"} {
		body := fmt.Sprintf(`{"messages":[{"role":"user","content":%q}],"stream":%t}`, text, text == "stream")
		var reader io.Reader = strings.NewReader(body)
		if text == "stream" {
			reader = io.MultiReader(reader) // of unknown length, so it goes past the queue
		}
		request, _ := http.NewRequest("POST", base+"/v1/chat/completions", reader)
		request.Header.Set("Authorization", "Bearer sk-1")
		request.Header.Set("Content-Type", "application/json")
		response, err := client.Do(request)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		all, _ := io.ReadAll(response.Body)
		response.Body.Close()
		about := response.Header.Get("Content-Type")
		if response.StatusCode != 200 {
			about = response.Header.Get("X-Request-Id")
		}
		said[text] = []any{response.StatusCode, content(all), about}
	}
	json.NewEncoder(os.Stdout).Encode(said)
}

type message struct {
	Content string `json:"content"`
}

// content is what was said, in an answer, an error or a stream.
func content(body []byte) string {
	var text strings.Builder
	for _, line := range strings.Split(string(body), "\n") {
		var document struct {
			Error   *struct{ Message string }
			Choices []struct{ Message, Delta message }
		}
		if json.Unmarshal([]byte(strings.TrimPrefix(line, "data: ")), &document) != nil {
			continue
		}
		if document.Error != nil {
			text.WriteString(document.Error.Message)
		}
		for _, choice := range document.Choices {
			text.WriteString(choice.Message.Content + choice.Delta.Content)
		}
	}
	return text.String()
}
