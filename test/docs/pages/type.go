package pages

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// begins stands, with a block's number, before what the block prints.
const begins = "@@ block "

// Type types blocks one after the other into one shell, as a reader does who
// stops at the first error, and holds what each prints against what the page
// says. The command is a shell that reads its input; errors name the block.
func Type(shell *exec.Cmd, blocks []Block) error {
	var output bytes.Buffer
	shell.Stdin, shell.Stdout, shell.Stderr = strings.NewReader(script(blocks)), &output, &output
	ended := shell.Run()
	printed := split(output.String())
	var failures []error
	for i, got := range printed {
		b := &blocks[i]
		switch {
		case ended != nil && i == len(printed)-1:
			failures = append(failures, fmt.Errorf("%s: %w\n%s\nprinted:\n%s", b, ended, indented(b.Text), indented(got)))
		case b.Prints == "":
		default:
			if err := Match(b.Prints, got); err != nil {
				failures = append(failures, fmt.Errorf("%s: %s\n%w", b, strings.TrimSpace(b.Text), err))
			}
		}
	}
	if ended != nil && len(printed) == 0 {
		failures = append(failures, fmt.Errorf("%w\n%s", ended, output.String()))
	}
	return errors.Join(failures...)
}

// script has a mark before each block. The shell's commands must not read the
// script, which is its input.
func script(blocks []Block) string {
	var b strings.Builder
	b.WriteString("set -euo pipefail\n")
	for i := range blocks {
		fmt.Fprintf(&b, "printf '\\n%s%%d\\n' %d\n", begins, i)
		if !blocks[i].Fails {
			fmt.Fprintf(&b, "{\n%s} </dev/null\n", blocks[i].Text)
			continue
		}
		fmt.Fprintf(&b, "set +e\n( set -e\n%s) </dev/null\nended=$?\nset -e\n", blocks[i].Text)
		b.WriteString("[ $ended != 0 ] || { echo 'this succeeded; the page says that it fails'; exit 1; }\n")
	}
	return b.String()
}

// split is what the blocks printed that were begun.
func split(output string) []string {
	var printed []string
	for line := range strings.Lines(output) {
		if number, is := strings.CutPrefix(line, begins); is && strings.TrimSpace(number) == strconv.Itoa(len(printed)) {
			printed = append(printed, "")
			continue
		}
		if len(printed) > 0 {
			printed[len(printed)-1] += line
		}
	}
	return printed
}
