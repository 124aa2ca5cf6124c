// The Chinese of every text("...") in the pack's scripts. Labels of commands are in locales/zh.

/** @type {Record<string, string>} */
export const CHINESE = {
  // attention_overlay.js
  "The picture {url} is gone. Run the node again.": "图像 {url} 已不存在。请再次运行该节点。",
  "A pixel's attention to the marked tokens, where it is least and where it is greatest": "单个像素对所选 token 的注意力：最小处与最大处",
  "low {share} ": "最低 {share} ",
  " high {share}": " 最高 {share}",
  "attention {share} %": "注意力 {share} %",
  // before_after.js
  "before": "遗忘前",
  "after": "遗忘后",
  "{number} of {count}": "第 {number} 对，共 {count} 对",
  "previous picture": "上一对图像",
  "next picture": "下一对图像",
  // commands.js
  "Freed {megabytes} MB of what trainings keep for the next run.": "已释放 {megabytes} MB，即训练为下次运行保留的内容。",
  // live_monitor.js
  "loss": "损失",
  "attention mass": "注意力占比",
  "target": "目标",
  "drift": "漂移",
  "{minutes} min": "{minutes} 分钟",
  "{seconds} s": "{seconds} 秒",
  ", {time} left": "，剩余 {time}",
  ", ended": "，已结束",
  "{title}: step {step} of {total}": "{title}：第 {step} 步，共 {total} 步",
  "Stop and keep": "停止并保留",
  "Ends the training now and keeps the patch of this moment. The host's own Cancel discards it.":
    "立即结束训练，并保留此刻的补丁。用 ComfyUI 自带的取消则会丢弃补丁。",
  "what the model still draws": "模型目前还会画出的内容",
  "Curves, time left and Stop and keep, while it runs.": "运行时在此显示曲线、剩余时间和“停止并保留”。",
  // panel.js
  "The server answered {status}.": "服务器返回了 {status}。",
  // patch_browser.js
  "target missed": "未达成目标",
  "others moved": "其他提示词移动",
  "lost by shrinking": "压缩时丢失",
  "forgets: {concepts}": "遗忘：{concepts}",
  "another base: {difference}": "底模不同：{difference}",
  "Search name, concept, author": "搜索名称、概念、作者",
  "Close": "关闭",
  "Forget patches ": "遗忘补丁 ",
  "No patch here. Train Forget Patch saves into models/loras/forget_me_not.": "这里没有补丁。“训练遗忘补丁”会保存到 models/loras/forget_me_not。",
  "browse patches": "浏览补丁",
  // related_names.js
  "Acts like it. Click to forget it too:": "作用与它相近。点击可一并遗忘：",
  "Named with it, but another thing. Click to keep it:": "名称中含有它，却是另一种事物。点击可予以保留：",
  // report_panel.js
  "figures": "详细数据",
  // token_picker.js
  "end token, column {column}": "结束 token，第 {column} 列",
  "column {column}": "第 {column} 列",
  "Tokens, by the standard tokenizer; the connected CLIP's after a run. Blue: what is forgotten.":
    "由标准分词器切分的 token；运行后改用所连接的 CLIP 的分词器。蓝色：要遗忘的内容。",
  "Tokens, by the connected CLIP's tokenizer. Blue: what is forgotten.": "由所连接的 CLIP 的分词器切分的 token。蓝色：要遗忘的内容。",
};
