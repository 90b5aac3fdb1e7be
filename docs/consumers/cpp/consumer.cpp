// Prints one line for each result of a Redis queue, until the run ends.
//
//     cmake -B build && cmake --build build
//     build/consumer 127.0.0.1 6379 NAME
//
// PERCEPTION_QUEUE_USER and PERCEPTION_QUEUE_PASSWORD log in. TLS needs hiredis 1.0 and hiredis_ssl; Debian 12 has 0.14.
#include <hiredis/hiredis.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "perception_result.pb.h"

namespace {

using perception::v1::PerceptionResult;
using perception::v1::QueueItem;

constexpr std::uint32_t kSchema = 1;
const char* const kField = "item";

struct FreeContext {
  void operator()(redisContext* context) const { redisFree(context); }
};
struct FreeReply {
  void operator()(redisReply* reply) const { freeReplyObject(reply); }
};
using Context = std::unique_ptr<redisContext, FreeContext>;
using Reply = std::unique_ptr<redisReply, FreeReply>;

template <typename... Arguments>
Reply command(const Context& context, const char* format, Arguments... arguments) {
  Reply reply(static_cast<redisReply*>(redisCommand(context.get(), format, arguments...)));
  if (!reply) throw std::runtime_error(context->errstr);
  if (reply->type == REDIS_REPLY_ERROR) throw std::runtime_error(std::string(reply->str, reply->len));
  return reply;
}

Context connect(const char* host, int port) {
  Context context(redisConnect(host, port));
  if (!context) throw std::runtime_error("out of memory");
  if (context->err) throw std::runtime_error(context->errstr);
  const char* user = std::getenv("PERCEPTION_QUEUE_USER");
  const char* password = std::getenv("PERCEPTION_QUEUE_PASSWORD");
  if (user && password) command(context, "AUTH %s %s", user, password);
  return context;
}

void print(const PerceptionResult& result) {
  int tracked = 0;
  for (const auto& detection : result.detections()) tracked += detection.has_track_id();
  float x = 0, y = 0;
  if (result.path_hints_size() > 0 && result.path_hints(0).waypoints_m_size() > 0) {
    const auto& last = *result.path_hints(0).waypoints_m().rbegin();
    x = last.x();
    y = last.y();
  }
  std::printf("%s #%llu at %lld: %d detections, %d tracked; best path ends at (%.1f, %.1f) m\n",
              result.drive_id().c_str(), static_cast<unsigned long long>(result.sequence()),
              static_cast<long long>(result.reference_ns()), result.detections_size(), tracked, x, y);
}

// One consumer's memory: which results it has seen, and how many messages were none.
class Reader {
 public:
  // Returns false at the end of a run.
  bool take(const char* payload, std::size_t size) {
    QueueItem item;
    if (!item.ParseFromArray(payload, static_cast<int>(size)) || item.schema() != kSchema ||
        item.item_case() == QueueItem::ITEM_NOT_SET) {
      ++malformed_;
      return true;
    }
    if (item.has_end_of_run()) {
      const auto& end = item.end_of_run();
      std::printf("end of run %s: %llu results, %s\n", end.run_id().c_str(),
                  static_cast<unsigned long long>(end.count()), end.reason().c_str());
      return false;
    }
    // What was published twice, because a producer did not hear that it had arrived, comes twice; it counts once.
    auto& expected = expected_[{item.result().drive_id(), item.result().run_id()}];
    if (item.result().sequence() >= expected) {
      expected = item.result().sequence() + 1;
      print(item.result());
    }
    return true;
  }

  int malformed() const { return malformed_; }

 private:
  std::map<std::pair<std::string, std::string>, std::uint64_t> expected_;
  int malformed_ = 0;
};

// All of the stream from its oldest entry on, then what follows. XREAD waits: nothing is polled, and a stream that
// does not exist yet is waited for.
void read(const Context& context, const char* stream, Reader& reader) {
  std::string last = "0";
  for (;;) {
    Reply reply = command(context, "XREAD COUNT 100 BLOCK 1000 STREAMS %s %s", stream, last.c_str());
    if (reply->type == REDIS_REPLY_NIL) continue;
    // [[name, [[id, [field, value, ...]], ...]]]
    const redisReply* entries = reply->element[0]->element[1];
    for (std::size_t i = 0; i < entries->elements; ++i) {
      const redisReply* id = entries->element[i]->element[0];
      const redisReply* fields = entries->element[i]->element[1];
      last.assign(id->str, id->len);
      for (std::size_t f = 0; f + 1 < fields->elements; f += 2) {
        const redisReply* value = fields->element[f + 1];
        if (std::string(fields->element[f]->str, fields->element[f]->len) != kField) continue;
        if (!reader.take(value->str, value->len)) return;
      }
    }
    std::fflush(stdout);
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 4) {
    std::fprintf(stderr, "usage: consumer HOST PORT NAME\n");
    return 2;
  }
  try {
    // A producer that waits for consumers looks who listens on this channel, on which nothing is ever said.
    const Context presence = connect(arguments[1], std::atoi(arguments[2]));
    command(presence, "SUBSCRIBE %s:consumers", arguments[3]);
    Reader reader;
    read(connect(arguments[1], std::atoi(arguments[2])), arguments[3], reader);
    if (reader.malformed() > 0) std::fprintf(stderr, "%d messages were no results\n", reader.malformed());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
  return 0;
}
