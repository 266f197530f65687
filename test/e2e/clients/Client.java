import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.ArrayList;

/**
 * For each line of its input, {@code kept|new user n url}: asks n times as the
 * user, over kept connections or each over a new one, and prints each answer's
 * status and type.
 */
class Client {
    private static final HttpClient KEPT = HttpClient.newHttpClient();

    public static void main(String[] args) throws Exception {
        var in = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = in.readLine()) != null;) {
            var words = line.split(" ");
            var answers = new ArrayList<String>();
            while (answers.size() < Integer.parseInt(words[2])) {
                answers.add(ask(words[0].equals("kept") ? KEPT : HttpClient.newHttpClient(), words[1], words[3]));
            }
            System.out.println(String.join(" ", answers));
        }
    }

    private static String ask(HttpClient client, String user, String url) throws InterruptedException {
        var request = HttpRequest.newBuilder(URI.create(url)).header("X-User-ID", user).build();
        try {
            var response = client.send(request, HttpResponse.BodyHandlers.ofString());
            return response.statusCode() + ":" + response.headers().firstValue("Content-Type").orElse("");
        } catch (java.io.IOException e) {
            System.err.println(e);
            return "failed";
        }
    }
}
